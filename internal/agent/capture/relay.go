package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/tullemesh/tulle/internal/limit"
)

// Relay carries TCP connections between the host and the namespaces, which have no route to one another: each connection that ln accepts
// is joined with one that dial makes. So the host reaches a gateway (a listener of the host, Namespace.Dial), and a namespace reaches a
// service on the host's loopback (Network.Listen, an ordinary dial). It runs until ctx ends, closes ln, and returns when every connection
// is closed. A connection that cannot be joined is reset, as by a port without a listener.
func Relay(ctx context.Context, ln net.Listener, dial func(context.Context) (net.Conn, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	slots := make(chan struct{}, limit.RelayConnectionsMax)
	for {
		in, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = in.Close()
			}
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept on %s: %w", ln.Addr(), err), ln.Close())
		}
		select {
		case slots <- struct{}{}:
		default:
			reset(in)
			continue
		}
		open.Go(func() {
			defer func() { <-slots }()
			out, err := dial(ctx)
			if err != nil {
				reset(in)
				return
			}
			join(ctx, in, out)
		})
	}
}

// reset closes a connection so that the peer sees an error and not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// join copies both ways until both have ended, or ctx ends. One direction may end before the other (half-close).
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		_, _ = a.Close(), b.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	oneWay := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); err != nil {
			reset(to) // what failed must not look complete
			reset(from)
			return
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	wg.Go(func() { oneWay(a, b) })
	wg.Go(func() { oneWay(b, a) })
	wg.Wait()
	_, _ = a.Close(), b.Close()
}
