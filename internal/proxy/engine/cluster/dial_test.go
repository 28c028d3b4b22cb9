package cluster

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

func addresses(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestFamiliesTakeTurns(t *testing.T) {
	six := addresses("[::1]:1", "[::2]:1", "[::3]:1")
	four := addresses("10.0.0.1:1", "10.0.0.2:1")
	got := alternate(six[0], append(append([]netip.AddrPort{}, six[1:]...), four...))
	want := []netip.AddrPort{six[0], four[0], six[1], four[1], six[2]}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestRaceOfAddresses(t *testing.T) {
	errRefused := errors.New("refused")
	never := time.Hour
	type path struct {
		after time.Duration
		err   error
	}
	for _, c := range []struct {
		name  string
		paths []path
		took  time.Duration
		begun int
		err   error
	}{
		{"the first answers", []path{{0, nil}, {0, nil}}, 0, 1, nil},
		{"the first is slow, and still before the second begins", []path{{200 * time.Millisecond, nil}, {0, nil}}, 200 * time.Millisecond, 1, nil},
		{"the first is late", []path{{never, nil}, {10 * time.Millisecond, nil}}, 260 * time.Millisecond, 2, nil},
		{"the first is late, and wins", []path{{300 * time.Millisecond, nil}, {never, nil}}, 300 * time.Millisecond, 2, nil},
		{"the first fails at once", []path{{0, errRefused}, {0, nil}}, 0, 2, nil},
		{"two are late", []path{{never, nil}, {never, nil}, {0, nil}}, 500 * time.Millisecond, 3, nil},
		{"all fail", []path{{0, errRefused}, {10 * time.Millisecond, errRefused}}, 10 * time.Millisecond, 2, errRefused},
		{"all are late", []path{{never, nil}, {never, nil}}, 5 * time.Second, 2, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				begun, ended := 0, 0
				to := addresses("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")[:len(c.paths)]
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				start := time.Now()
				s, err := race(ctx, to, func(ctx context.Context, at netip.AddrPort) (*conn.Socket, error) {
					mu.Lock()
					p := c.paths[begun]
					if at != to[begun] {
						t.Errorf("number %d went to %v", begun, at)
					}
					begun++
					mu.Unlock()
					defer func() { mu.Lock(); ended++; mu.Unlock() }()
					select {
					case <-time.After(p.after):
						if p.err != nil {
							return nil, p.err
						}
						return &conn.Socket{}, nil
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				})
				if time.Since(start) != c.took || begun != c.begun || ended != begun {
					t.Errorf("took %v, %d begun, %d ended; want %v, %d", time.Since(start), begun, ended, c.took, c.begun)
				}
				if (s == nil) != (c.err != nil) || !errors.Is(err, c.err) {
					t.Errorf("%v, %v; want %v", s, err, c.err)
				}
			})
		})
	}
}

func TestDialTakesTheAddressThatAnswers(t *testing.T) {
	at := accepting(t)
	l := newLive(t, nil)
	a := assign(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), at.Port())) // nobody listens there
	a.Localities[0].Endpoints[0].Extra = []netip.AddrPort{at}
	update(l, &Spec{Name: "c"}, a)
	u, _ := l.Get("c").Pick(0, netip.AddrPort{})
	c := connect(t, u, Use{})
	if got := conn.AddrPort(c.RemoteAddr()); got != at {
		t.Errorf("connected to %v, want %v", got, at)
	}
}
