package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// nth is an address of its own for each i.
func nth(i int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 127<<24|uint32(i+1))))
}

func TestAnswersOfManyAddressesAreCut(t *testing.T) {
	for _, n := range []int{limit.DNSAnswersMax - 1, limit.DNSAnswersMax, limit.DNSAnswersMax + 1} {
		synctest.Test(t, func(t *testing.T) {
			r := &answers{addrs: map[string][]netip.Addr{}, ttl: time.Minute}
			for i := range n {
				r.addrs["db"] = append(r.addrs["db"], nth(i))
			}
			_, c, _ := named(t, &Spec{Kind: StrictDNS}, r)
			synctest.Wait()
			if got := len(c.Hosts().Members()); got != min(n, limit.DNSAnswersMax) {
				t.Errorf("%d addresses make %d endpoints", n, got)
			}
		})
	}
}

// anywhere is a resolver that knows every name.
type anywhere struct{ asked int }

func (a *anywhere) Lookup(context.Context, string, DNSFamily) ([]netip.Addr, time.Duration, error) {
	a.asked++
	return []netip.Addr{nth(0)}, time.Minute, nil
}

func TestAnswersForChosenNamesAreKeptUpToTheirLimit(t *testing.T) {
	r := &anywhere{}
	l := newLive(t, r)
	resolve := func(i int) {
		t.Helper()
		if _, err := l.Resolve(fmt.Sprintf("n%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{limit.ChosenNamesMax - 1, limit.ChosenNamesMax} {
		for i := range n {
			resolve(i)
		}
		if r.asked != n {
			t.Errorf("%d names were asked for %d times", n, r.asked)
		}
	}
	// One more: the rest is forgotten, and the first is asked for again.
	resolve(limit.ChosenNamesMax + 1)
	resolve(0)
	if want := limit.ChosenNamesMax + 2; r.asked != want {
		t.Errorf("asked %d times, want %d", r.asked, want)
	}
	if n := len(l.names.at); n > limit.ChosenNamesMax {
		t.Errorf("%d answers are kept", n)
	}
}

func TestOriginalDestinationsHaveALimit(t *testing.T) {
	l := newLive(t, nil)
	update(l, &Spec{Name: "c", Kind: OriginalDst}, nil)
	c := l.Get("c")
	pick := func(i int) (*Upstream, error) { return c.Pick(0, netip.AddrPortFrom(nth(i), 80)) }
	var all []*Upstream
	for i := range limit.OriginalDestinationsMax {
		u, err := pick(i)
		if err != nil {
			t.Fatalf("destination %d: %v", i, err)
		}
		u.Counts.ConnActive.Add(1) // somebody is connected
		all = append(all, u)
		if i == limit.OriginalDestinationsMax-1-1 || i == limit.OriginalDestinationsMax-1 {
			if n := len(c.upstreams); n != i+1 {
				t.Errorf("%d destinations are kept, want %d", n, i+1)
			}
		}
	}
	if _, err := pick(limit.OriginalDestinationsMax + 1); !errors.Is(err, ErrOverflow) {
		t.Errorf("one more than the limit, all in use: %v", err)
	}
	if u, err := pick(0); err != nil || u != all[0] {
		t.Errorf("one of those in use: %v", err)
	}
	// Those that nobody uses make room.
	for _, u := range all {
		u.Counts.ConnActive.Add(-1)
	}
	if _, err := pick(limit.OriginalDestinationsMax + 1); err != nil || len(c.upstreams) > limit.OriginalDestinationsMax {
		t.Errorf("with room: %v, %d are kept", err, len(c.upstreams))
	}
}

func TestWaitingRequestsHaveALimit(t *testing.T) {
	l, _ := counted(t)
	c, _ := one(t, l, &Spec{})
	for n := 1; n <= limit.UpstreamPendingMax+1; n++ {
		if err := c.beginWait(); errors.Is(err, ErrOverflow) != (n > limit.UpstreamPendingMax) {
			t.Errorf("request %d: %v", n, err)
		}
	}
	c.endWait()
	if err := c.beginWait(); err != nil {
		t.Errorf("after one has ended its wait: %v", err)
	}
}

func TestIdleConnectionsHaveALimit(t *testing.T) {
	l, _ := counted(t)
	_, u := one(t, l, &Spec{})
	var all []*Conn
	for range limit.UpstreamIdleMax + 1 {
		all = append(all, connect(t, u, Use{}))
	}
	for i, c := range all {
		c.Release(0)
		u.mu.Lock()
		n := len(u.idle)
		u.mu.Unlock()
		if want := min(i+1, limit.UpstreamIdleMax); n != want {
			t.Fatalf("%d idle connections after %d were released, want %d", n, i+1, want)
		}
	}
	if n := u.Counts.ConnActive.Load(); n != limit.UpstreamIdleMax {
		t.Errorf("%d connections are open, want %d", n, limit.UpstreamIdleMax)
	}
}
