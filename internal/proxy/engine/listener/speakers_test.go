package listener

import (
	"net/netip"
	"testing"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestFirstSpeakersAreRememberedUpToTheirLimit(t *testing.T) {
	var f FirstSpeakers
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
	for i := range limit.FirstSpeakersMax {
		f.Server(at(i))
		if i >= limit.FirstSpeakersMax-2 && f.At(at(0)) != ServerFirst {
			t.Errorf("with %d destinations the first is forgotten", i+1)
		}
	}
	f.Server(at(limit.FirstSpeakersMax + 1))
	if n := len(f.known); n > limit.FirstSpeakersMax || f.At(at(limit.FirstSpeakersMax+1)) != ServerFirst {
		t.Errorf("%d destinations are remembered, the newest: %v", n, f.At(at(limit.FirstSpeakersMax+1)))
	}
}

func TestAClientThatWasHeardFirstIsRememberedBesideItsServer(t *testing.T) {
	var f FirstSpeakers
	to := netip.MustParseAddrPort("127.0.0.1:3306")
	for _, step := range []struct {
		name string
		do   func(netip.AddrPort)
		want FirstSpeaker
	}{
		{"a client where nothing is known", f.Client, NobodyKnown},
		{"a server", f.Server, ServerFirst},
		{"a client", f.Client, BothFirst},
		{"a server again", f.Server, BothFirst},
	} {
		if step.do(to); f.At(to) != step.want {
			t.Errorf("%s: %d, want %d", step.name, f.At(to), step.want)
		}
	}
}
