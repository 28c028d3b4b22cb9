package engine

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
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
