package traffic_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/testkit/held"
)

// served starts the sidecar of an application with a Sidecar object that has
// one ingress listener, and gives its address.
func served(t *testing.T, protocol string, at netip.AddrPort, pool, ingressPool string, more ...string) string {
	t.Helper()
	number := held.Port(t, "127.0.0.2")
	if pool != "" {
		pool = "inboundConnectionPool: " + pool + ", "
	}
	if ingressPool != "" {
		ingressPool = ", connectionPool: " + ingressPool
	}
	more = append(more, fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: demo}, spec: {workloadSelector: {labels: {app: web}}, %singress: [{port: {number: %d, protocol: %s, name: it}, defaultEndpoint: "%s"%s}]}}`,
		pool, number, protocol, at, ingressPool))
	start(t, "", workload("127.0.0.2", number, plaintext, protocol, more...), node{kind: "sidecar", at: "127.0.0.2", name: "web"})
	return "127.0.0.2:" + strconv.Itoa(number)
}

// peerOf tells by which connection a request came.
func peerOf(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }

// The more specific pool holds as a whole.
func TestWhichPoolLimitsAnApplicationsConnections(t *testing.T) {
	const (
		once  = "{http: {maxRequestsPerConnection: 1}}"
		other = "{http: {maxRetries: 7}}"
		rule  = `{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: demo}, spec: {host: web, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}}`
	)
	at := app(t, peerOf)
	for _, c := range []struct {
		name, rule, pool, ingress string
		reused                    bool
	}{
		{"none", "", "", "", true},
		{"the destination rule's", rule, "", "", false},
		{"the sidecar's", "", once, "", false},
		{"the sidecar's over the destination rule's", rule, other, "", true},
		{"the listener's", "", "", once, false},
		{"the listener's over the sidecar's", "", once, other, true},
		{"the listener's over the destination rule's", rule, "", other, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := "http://" + served(t, "HTTP", at, c.pool, c.ingress, c.rule)
			caller := client(t, false)
			_, first := get(t, caller, url)
			if _, second := get(t, caller, url); (first == second) != c.reused {
				t.Errorf("by %s, then by %s", first, second)
			}
		})
	}
}

// A service's port has the pool of the Sidecar too.
func TestASidecarsPoolHoldsWithoutIngressListeners(t *testing.T) {
	at := app(t, peerOf)
	number := held.Port(t, "127.0.0.2")
	start(t, "", workload("127.0.0.2", number, plaintext, "http", `{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: web, namespace: demo}, spec: {inboundConnectionPool: {http: {maxRequestsPerConnection: 1}}}}`),
		node{kind: "sidecar", at: "127.0.0.2", name: "web", appPorts: map[string]string{strconv.Itoa(number): at.String()}})
	caller := client(t, false)
	url := "http://127.0.0.2:" + strconv.Itoa(number)
	_, first := get(t, caller, url)
	if _, second := get(t, caller, url); first == second {
		t.Errorf("both by %s", first)
	}
}

func TestAnApplicationHasNoMoreThanItsPoolLets(t *testing.T) {
	begun, release := make(chan struct{}, 8), make(chan struct{})
	at := app(t, func(http.ResponseWriter, *http.Request) { begun <- struct{}{}; <-release })
	url := "http://" + served(t, "HTTP", at, "", "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}")
	const calls = 3
	statuses := make(chan int, calls)
	ask := func() {
		status, _ := get(t, client(t, false), url)
		statuses <- status
	}
	go ask()
	<-begun // it has the connection
	go ask()
	go ask()
	// Of those two one waits, and the other is told at once.
	if first := <-statuses; first != http.StatusServiceUnavailable {
		t.Errorf("%d while one is served and one waits", first)
	}
	close(release)
	for range calls - 1 {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("then %d", status)
		}
	}
}

func TestAnApplicationGetsTheClientsVersion(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, version(r.ProtoMajor)) })
	for _, protocol := range []string{"HTTP", "HTTP2"} {
		for _, kept := range []bool{false, true} {
			for _, two := range []bool{false, true} {
				want := version(1 + map[bool]int{kept && two || !kept && protocol == "HTTP2": 1}[true])
				t.Run(fmt.Sprintf("%s/kept %v/client of HTTP/2 %v", protocol, kept, two), func(t *testing.T) {
					url := "http://" + served(t, protocol, at, fmt.Sprintf("{http: {useClientProtocol: %v, maxRetries: 7}}", kept), "")
					if status, got := get(t, client(t, two), url); got != want {
						t.Errorf("%d by %s, want %s", status, got, want)
					}
				})
			}
		}
	}
}

// Bytes that nobody reads as HTTP have the times of the pool as well.
func TestConnectionsOfBytesToAnApplicationHaveAnEnd(t *testing.T) {
	for _, c := range []struct{ name, pool string }{
		{"idle", "{tcp: {idleTimeout: 0.05s}}"},
		{"old", "{tcp: {maxConnectionDuration: 0.05s}}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := listen(t)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					a, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.Copy(a, a)
					a.Close()
				}
			}()
			t.Cleanup(func() { l.Close(); <-ended })
			at := served(t, "TCP", netip.MustParseAddrPort(l.Addr().String()), "", c.pool)
			a, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			_ = a.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(a, "?"); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(a)
			if string(got) != "?" || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
