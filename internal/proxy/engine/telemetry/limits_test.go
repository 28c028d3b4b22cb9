package telemetry

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

func TestLabelSetsAreKeptUpToTheirLimit(t *testing.T) {
	m := New(observe.NewRegistry(), Workload{})
	// All but two of those that are kept: each addition copies them.
	kept := make(map[seriesKey]*requestSeries, limit.LabelSetsMax)
	for i := range limit.LabelSetsMax - 2 {
		kept[seriesKey{status: -i - 1}] = nil
	}
	m.series.Store(&kept)
	for i, want := range []int{limit.LabelSetsMax - 1, limit.LabelSetsMax, limit.LabelSetsMax} {
		if s := m.add(&seriesKey{status: 200 + i}); s == nil {
			t.Fatalf("set %d is not counted", i)
		}
		if n := len(*m.series.Load()); n != want {
			t.Errorf("%d label sets are kept, want %d", n, want)
		}
	}
}

// jsonPeers stands for Istio's encoding of peer metadata.
type jsonPeers struct{}

func (jsonPeers) Self() (id, encoded string) { return "", "" }

func (jsonPeers) Decode(encoded string) (Workload, bool) {
	var w Workload
	return w, json.Unmarshal([]byte(encoded), &w) == nil
}

func TestPeersAreInternedUpToTheirLimit(t *testing.T) {
	p := NewPeers(jsonPeers{})
	proved := func(n int) *Peer {
		return p.Of(&fact.Conn{Verified: true, Peer: fmt.Sprintf("spiffe://td/ns/n%d/sa/a", n)})
	}
	if w := proved(1); w != proved(1) || w.Namespace != "n1" || w.Principal != "spiffe://td/ns/n1/sa/a" {
		t.Errorf("%+v, or another one the second time", w)
	}
	if p.Of(&fact.Conn{Peer: "spiffe://td/ns/n1/sa/a"}).Workload != (Workload{}) {
		t.Error("an identity that was not proved counts")
	}
	metadata := `{"Name":"web","Namespace":"claimed","Principal":"claimed"}`
	if w := p.Get("spiffe://td/ns/n1/sa/a", metadata); w.Name != "web" || w.Namespace != "n1" || w.Principal != "spiffe://td/ns/n1/sa/a" {
		t.Errorf("%+v: the certificate's words count", w)
	}
	if w := p.Get("spiffe://td/ns/n1/sa/a", "garbage"); w != proved(1) {
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
