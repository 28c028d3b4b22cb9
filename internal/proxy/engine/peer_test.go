package engine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// Who has not proved an identity can say what it likes of itself: nobody
// believes it, and clients do not see it.
func TestUnprovenPeerMetadataOfAnEndpointIsDropped(t *testing.T) {
	b := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-envoy-peer-metadata-id: evil\r\n"+
		`x-envoy-peer-metadata: {"App":"evil"}`+"\r\n\r\nok")
	p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}, self: webWorkload(), peers: newPeers(webWorkload())})
	if got := p.talk(t, get); !strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Contains(got, "evil") || strings.Contains(got, "peer-metadata") {
		t.Fatalf("got %s", got)
	}
	p.stop()
	if got := series(t, p, "istio_requests_total"); strings.Contains(got, "evil") {
		t.Error(got)
	}
}

func TestPeersAreInternedUpToTheirLimit(t *testing.T) {
	var p peers
	p.init(jsonPeers{})
	proved := func(n int) *peer {
		return p.of(&fact.Conn{Verified: true, Peer: fmt.Sprintf("spiffe://td/ns/n%d/sa/a", n)})
	}
	if w := proved(1); w != proved(1) || w.Namespace != "n1" || w.Principal != "spiffe://td/ns/n1/sa/a" {
		t.Errorf("%+v, or another one the second time", w)
	}
	if p.of(&fact.Conn{Peer: "spiffe://td/ns/n1/sa/a"}).Workload != (Workload{}) {
		t.Error("an identity that was not proved counts")
	}
	metadata := `{"Name":"web","Namespace":"claimed","Principal":"claimed"}`
	if w := p.get("spiffe://td/ns/n1/sa/a", metadata); w.Name != "web" || w.Namespace != "n1" || w.Principal != "spiffe://td/ns/n1/sa/a" {
		t.Errorf("%+v: the certificate's words count", w)
	}
	if w := p.get("spiffe://td/ns/n1/sa/a", "garbage"); w != proved(1) {
		t.Errorf("%+v", w)
	}
	for n := range limit.PeersMax - len(*p.known.Load()) {
		proved(1000 + n)
	}
	for _, want := range []int{limit.PeersMax, 2} { // at the limit; beyond, only the unknown and the new one
		if got := len(*p.known.Load()); got != want {
			t.Errorf("%d peers are known, want %d", got, want)
		}
		proved(-1)
	}
	if w := proved(1); w.Namespace != "n1" {
		t.Errorf("after the limit: %+v", w)
	}
}
