package engine

import (
	"net/netip"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
)

func TestLabelSetsAreKeptUpToTheirLimit(t *testing.T) {
	m := newTelemetry(&Options{Registry: observe.NewRegistry()})
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

func TestFirstSpeakersAreRememberedUpToTheirLimit(t *testing.T) {
	var f firstSpeakers
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
	for i := range limit.FirstSpeakersMax {
		f.server(at(i))
		if i >= limit.FirstSpeakersMax-2 && f.at(at(0)) != serverFirst {
			t.Errorf("with %d destinations the first is forgotten", i+1)
		}
	}
	f.server(at(limit.FirstSpeakersMax + 1))
	if n := len(f.known); n > limit.FirstSpeakersMax || f.at(at(limit.FirstSpeakersMax+1)) != serverFirst {
		t.Errorf("%d destinations are remembered, the newest: %v", n, f.at(at(limit.FirstSpeakersMax+1)))
	}
}
