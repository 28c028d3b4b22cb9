package engine

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

var update = flag.Bool("update", false, "rewrite golden files")

// jsonPeers stands for Istio's encoding of peer metadata.
type jsonPeers struct{ id, encoded string }

func newPeers(self telemetry.Workload) jsonPeers {
	b, err := json.Marshal(self)
	if err != nil {
		panic(err)
	}
	return jsonPeers{self.Name, string(b)}
}

func (p jsonPeers) Self() (id, encoded string) { return p.id, p.encoded }

func (p jsonPeers) Decode(encoded string) (telemetry.Workload, bool) {
	var w telemetry.Workload
	return w, json.Unmarshal([]byte(encoded), &w) == nil
}

func webWorkload() telemetry.Workload {
	return telemetry.Workload{Name: "web-1", Namespace: "front", Cluster: "c1", App: "web", Version: "v1", CanonicalService: "web-svc", Revision: "r1", Principal: otherID}
}

func cartWorkload() telemetry.Workload {
	return telemetry.Workload{Name: "cart-1", Namespace: "shop", Cluster: "c2", App: "cart-app", Version: "v2", CanonicalService: "cart-svc", Revision: "r2", Principal: cartID}
}

// sidecars are two of them with a service behind, with or without mutual TLS.
func sidecars(t *testing.T, mutual bool) (web, cart *proxy) {
	return sidecarsOf(t, mutual, echo(t).at)
}

func sidecarsOf(t *testing.T, mutual bool, service netip.AddrPort) (web, cart *proxy) {
	a := newAuthority(t)
	in := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", service)}, self: cartWorkload(), peers: newPeers(cartWorkload()),
		extra: func(p *generation.Parts) {
			p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", cartID), "ROOTCA": a.roots()}
			p.Listeners[0].Spec().Direction = listener.Inbound
		}}
	if mutual {
		in.chain.TLS = &etls.ServerSpec{Certificates: []string{"default"}, Validation: "ROOTCA", RequireClientCert: true, ALPN: []string{"http/1.1"}}
	}
	cart = start(t, in)
	spec := static("cart", cart.Listening()[listenAny()])
	spec.Endpoints.Localities[0].Endpoints[0].Workload = "cart-1;shop;cart-svc;r2;c2"
	if mutual {
		spec.TLS = []cluster.TLSMatch{{Spec: &etls.ClientSpec{Certificate: "default", Validation: "ROOTCA", ALPN: []string{"http/1.1"},
			SANs: []match.String{match.Exact(cartID, match.CaseSensitive)}, SNI: "cart"}}}
	}
	web = start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{spec}, self: webWorkload(), peers: newPeers(webWorkload()),
		extra: func(p *generation.Parts) {
			p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", otherID), "ROOTCA": a.roots()}
		}})
	return web, cart
}

// series is the one line of a metric, its labels one a line.
func series(t *testing.T, p *proxy, name string) string {
	t.Helper()
	var all bytes.Buffer
	if err := p.registry.WritePrometheus(&all); err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(all.String()) {
		if labels, ok := strings.CutPrefix(line, name+"{"); ok {
			labels, _, _ = strings.Cut(labels, "} ")
			found = append(found, strings.ReplaceAll(labels, `",`, "\"\n"))
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d series of %s", len(found), name)
	}
	return found[0]
}

// Istio Standard Metrics, label by label.
func TestTrafficHasIstiosLabels(t *testing.T) {
	got := &txtar.Archive{}
	for _, c := range []struct {
		name   string
		mutual bool
	}{{"mutual TLS", true}, {"plaintext", false}} {
		web, cart := sidecars(t, c.mutual)
		if got := web.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Contains(got, "peer-metadata") {
			t.Fatalf("got %s", got)
		}
		web.stop()
		cart.stop()
		for who, p := range map[string]*proxy{"source": web, "destination": cart} {
			got.Files = append(got.Files, txtar.File{Name: c.name + ", " + who, Data: []byte(series(t, p, "istio_requests_total") + "\n")})
		}
	}
	slices.SortFunc(got.Files, func(a, b txtar.File) int { return strings.Compare(a.Name, b.Name) })
	const golden = "testdata/labels.txtar"
	if *update {
		if err := os.WriteFile(golden, txtar.Format(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(got))); d != "" {
		t.Error(d)
	}
}

// Istio reports TCP every five seconds; a connection may last for days.
func TestBytesOfOpenConnectionsAreReported(t *testing.T) {
	p := start(t, &setup{tcp: &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "db", Weight: 1}}, TotalWeight: 1}, clusters: []*cluster.Spec{
		static("db", serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) }).at)}})
	c := p.dial(t)
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bytes are reported while the connection is open", func() bool {
		return p.registry.Sum("istio_tcp_sent_bytes_total") == 5 && p.registry.Sum("istio_tcp_received_bytes_total") == 5
	})
	c.Close()
	eventually(t, "the connection ends", func() bool { return p.Open() == 0 })
	if n := p.registry.Sum("istio_tcp_sent_bytes_total"); n != 5 {
		t.Errorf("%v bytes at the end: some are counted twice", n)
	}
}
