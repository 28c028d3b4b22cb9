package cluster

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// attemptDelay is how long one address is tried before the next one joins the race (RFC 8305 §5: 250 ms; Envoy: 300 ms).
const attemptDelay = 250 * time.Millisecond

// dial connects to the endpoint: to its one address, or to the one of several that answers first.
func (u *Upstream) dial(ctx context.Context, spec *Spec) (*conn.Socket, error) {
	o := conn.DialOptions{
		Bind:              spec.BindAddress,
		KeepaliveIdle:     time.Duration(spec.KeepaliveTime) * time.Second,
		KeepaliveInterval: time.Duration(spec.KeepaliveInterval) * time.Second,
		KeepaliveProbes:   int(spec.KeepaliveProbes),
	}
	others := u.Info().Others
	if len(others) == 0 {
		return conn.Dial(ctx, u.Addr, u.Pipe, o)
	}
	return race(ctx, alternate(u.Addr, others), func(ctx context.Context, to netip.AddrPort) (*conn.Socket, error) {
		return conn.Dial(ctx, to, "", o)
	})
}

// alternate orders addresses by family in turn, beginning with the first (RFC 8305 §4).
func alternate(first netip.AddrPort, others []netip.AddrPort) []netip.AddrPort {
	var same, different []netip.AddrPort
	for _, a := range others {
		if a.Addr().Unmap().Is4() == first.Addr().Unmap().Is4() {
			same = append(same, a)
		} else {
			different = append(different, a)
		}
	}
	out := []netip.AddrPort{first}
	for len(same)+len(different) > 0 {
		if len(different) > 0 {
			out, different = append(out, different[0]), different[1:]
		}
		if len(same) > 0 {
			out, same = append(out, same[0]), same[1:]
		}
	}
	return out
}

// race dials one address after the other, each when the one before has failed or is late, until one is connected (RFC 8305 §5). The
// others are given up, and waited for.
func race(ctx context.Context, to []netip.AddrPort, dial func(context.Context, netip.AddrPort) (*conn.Socket, error)) (*conn.Socket, error) {
	type result struct {
		s   *conn.Socket
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	late := time.NewTimer(attemptDelay)
	defer late.Stop()
	var won *conn.Socket
	var failed error
	running := 0
	for next := 0; won == nil && (next < len(to) && ctx.Err() == nil || running > 0); {
		if next < len(to) && ctx.Err() == nil {
			at := to[next]
			next++
			running++
			late.Reset(attemptDelay)
			go func() {
				s, err := dial(ctx, at)
				results <- result{s, err}
			}()
		}
		var tick <-chan time.Time
		if next < len(to) {
			tick = late.C
		}
		select {
		case <-tick:
		case r := <-results:
			running--
			won, failed = r.s, errors.Join(failed, r.err)
		}
	}
	err := ctx.Err()
	cancel()
	for ; running > 0; running-- {
		if r := <-results; r.s != nil {
			r.s.Close()
		}
	}
	if won == nil {
		return nil, errors.Join(failed, err)
	}
	return won, nil
}
