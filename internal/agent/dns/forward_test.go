package dns

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/tullemesh/tulle/internal/limit"
)

// TestForwardedQueriesHaveALastMoment: what comes in it comes too late, from whichever resolver.
func TestForwardedQueriesHaveALastMoment(t *testing.T) {
	const most, each = limit.DNSForwardTime, resolverTime * 3 / 4 // what the first resolvers take to fail
	for at, answered := range map[time.Duration]bool{most - 1: true, most: false, most + 1: false} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Options{Resolvers: []netip.AddrPort{
				netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2"), netip.MustParseAddrPort("127.0.0.1:3"),
			}})
			s.exchange = func(ctx context.Context, q *dns.Msg, _ string, r netip.AddrPort) (*dns.Msg, error) {
				takes := each
				if r.Port() == 3 {
					takes = at - 2*each
				}
				done := time.NewTimer(takes)
				defer done.Stop()
				select {
				case <-done.C:
				case <-ctx.Done():
				}
				if synctest.Wait(); ctx.Err() != nil { // the moments may be the same one
					return nil, ctx.Err()
				}
				if r.Port() < 3 {
					return nil, errors.New("it is broken")
				}
				return new(dns.Msg).SetReply(q), nil
			}
			began := time.Now()
			_, err := s.forward(t.Context(), new(dns.Msg).SetQuestion("www.example.", dns.TypeA), "udp")
			if took := time.Since(began); (err == nil) != answered || took != min(at, most) {
				t.Errorf("an answer after %v: %v after %v, want it answered %t", at, err, took, answered)
			}
		})
	}
}
