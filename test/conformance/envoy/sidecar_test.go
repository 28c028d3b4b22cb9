//go:build conformance

package envoy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/draw"
	"github.com/tullemesh/tulle/internal/testkit/held"
)

// doors are where a sidecar that captures nothing takes what its app sends:
// the HTTP proxy's port, and a port for each service port that the app calls
// by address.
type doors struct {
	proxy  int
	egress map[string]int
}

// called are the service ports that the app calls by address: HTTP, bytes, and
// one whose protocol nobody says.
func called() []string {
	return []string{"alpha.demo" + draw.Domain + ":80", "delta.other" + draw.Domain + ":80", "omega.demo" + draw.Domain + ":82", "alpha.demo" + draw.Domain + ":81", "gamma.demo" + draw.Domain + ":81"}
}

func newDoors(t *testing.T) doors {
	t.Helper()
	d := doors{proxy: held.Port(t, "127.0.0.1"), egress: map[string]int{}}
	for _, name := range called() {
		d.egress[name] = held.Port(t, "127.0.0.1")
	}
	return d
}

func (d doors) node(name string) string {
	var egress []string
	for host, port := range d.egress {
		egress = append(egress, fmt.Sprintf("%q: \"127.0.0.1:%d\"", host, port))
	}
	return fmt.Sprintf(`{"id": "sidecar~127.0.0.1~%[1]s.demo~demo.svc.cluster.local", "cluster": "%[1]s.demo", "metadata": {"NAMESPACE": "demo", "LABELS": {"app": "client", "tier": "front"}, "ISTIO_VERSION": "1.31.0", "CLUSTER_ID": "Kubernetes", "INTERCEPTION_MODE": "NONE", "HTTP_PROXY_PORT": "%[2]d", "TULLE_EGRESS": {%[3]s}}}`,
		name, d.proxy, strings.Join(egress, ", "))
}

// proxied is what an app sees that knows the sidecar by HTTP_PROXY.
func (d doors) proxied(t *testing.T, r draw.Request) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, "http://"+r.Host+r.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.Headers {
		req.Header.Set(h[0], h[1])
	}
	transport := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(d.proxy)})}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return failure(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return failure(err)
	}
	return fmt.Sprintf("%d location=%q %s", resp.StatusCode, resp.Header.Get("Location"), body)
}

// sent is what an app sees that sends bytes where HTTP is not expected, or not
// known to be.
func (d doors) sent(t *testing.T, to string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(d.egress[to]), time.Second)
	if err != nil {
		return failure(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "helo, who is there?\n"); err != nil {
		return failure(err)
	}
	var got bytes.Buffer
	if _, err := io.Copy(&got, c); err != nil {
		return got.String() + failure(err)
	}
	return got.String()
}

// failure is an error in words that both proxies share.
func failure(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return "closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer"
	}
	return "error: " + err.Error()
}

func TestStockEnvoyDecidesAsOurSidecar(t *testing.T) {
	g := draw.New(20261122)
	mesh := draw.Mesh{Places: draw.StandIns(t, draw.Names()...), Sidecars: true}
	envoy, tulle := newDoors(t), newDoors(t)
	p := newPair(t, g.Objects(mesh), envoy.node("client-envoy"), tulle.node("client-tulle"))
	for round := range configs {
		if round > 0 {
			p.next(t, g.Objects(mesh))
		}
		compare(t, round, func(i int) (string, func() string, func() string) {
			switch i % 8 {
			case 0:
				to := draw.Pick(g, called()[2:]...)
				return "bytes to " + to, func() string { return envoy.sent(t, to) }, func() string { return tulle.sent(t, to) }
			case 1, 2:
				to := draw.Pick(g, called()[:3]...)
				r := g.Request(draw.MeshHosts()...)
				return to + " by address: " + r.String(), func() string { return outcome(t, envoy.egress[to], r) }, func() string { return outcome(t, tulle.egress[to], r) }
			}
			r := g.Request(draw.MeshHosts()...)
			return "by proxy: " + r.String(), func() string { return envoy.proxied(t, r) }, func() string { return tulle.proxied(t, r) }
		})
	}
}
