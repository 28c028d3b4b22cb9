package engine

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// twoWays is a proxy with an outbound listener, setup's own, and an inbound one.
type twoWays struct {
	*proxy
	setup   *setup
	in, out string
	release chan struct{} // lets what was asked of /slow be answered
	slow    chan struct{} // that it was asked
}

func inboundAny() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.2:0") }

func startTwoWays(t *testing.T, drain time.Duration) *twoWays {
	t.Helper()
	w := &twoWays{release: make(chan struct{}), slow: make(chan struct{}, 8)}
	b := serveWith(t, func(_ int, c net.Conn) {
		for r := bufio.NewReader(c); ; {
			raw, err := rawRequest(r)
			if err != nil {
				return
			}
			if strings.HasPrefix(raw, "GET /slow") {
				w.slow <- struct{}{}
				<-w.release
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	w.setup = &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", b.at)}}
	w.setup.extra = func(p *generation.Parts) {
		in := *p.Listeners[0].Spec()
		in.Name, in.Direction, in.Addresses = "in", listener.Inbound, []netip.AddrPort{inboundAny()}
		p.Listeners = append(p.Listeners, remade(t, &in)...)
	}
	w.proxy = start(t, w.setup)
	w.opts.DrainTime = drain // nothing drains yet
	w.in, w.out = w.Listening()[inboundAny()].String(), w.addr()
	return w
}

// ask sends a request on a new connection, which stays open.
func (w *twoWays) ask(t *testing.T, at, path string) *asked {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	a := &asked{Conn: c, r: bufio.NewReader(c)}
	a.again(t, path)
	return a
}

type asked struct {
	net.Conn
	r *bufio.Reader
}

func (a *asked) again(t *testing.T, path string) {
	t.Helper()
	if _, err := io.WriteString(a, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// told reads the answer, and reports whether it says that the connection ends.
func (a *asked) told(t *testing.T) bool {
	t.Helper()
	closes, err := readAnswer(a.r)
	if err != nil {
		t.Fatal(err)
	}
	return closes
}

// refused reports whether nobody is let in.
func refused(at string) bool {
	c, err := net.DialTimeout("tcp", at, time.Second)
	if err == nil {
		c.Close()
	}
	return err != nil
}

func TestStoppedListenersLetNobodyInAndNobodyGo(t *testing.T) {
	w := startTwoWays(t, time.Minute)
	in, out := w.ask(t, w.in, "/"), w.ask(t, w.out, "/")
	in.told(t)
	out.told(t)
	serves := func(a *asked) {
		t.Helper()
		a.again(t, "/")
		if a.told(t) {
			t.Error("an open connection was told to go")
		}
	}
	w.DrainListeners(ListenerDrain{InboundOnly: true})
	eventually(t, "the inbound listener stops", func() bool { return refused(w.in) })
	serves(in)
	serves(out)
	// A new configuration does not open it again.
	if err := w.Apply(w.setup.config(t)); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.Listening()[inboundAny()]; ok {
		t.Error("it listens again")
	}
	serves(in)
	if w.ask(t, w.out, "/").told(t) {
		t.Error("the outbound listener drains")
	}
	w.DrainListeners(ListenerDrain{})
	eventually(t, "all listeners stop", func() bool { return refused(w.out) })
	serves(in)
	serves(out)
	// When its listener is no longer configured, a connection has to go.
	w.setup.extra = nil
	if err := w.Apply(w.setup.config(t)); err != nil {
		t.Fatal(err)
	}
	if n, err := in.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	serves(out)
}

func TestGracefulStopsAskFirst(t *testing.T) {
	const drain = 400 * time.Millisecond
	w := startTwoWays(t, drain)
	in, out := w.ask(t, w.in, "/slow"), w.ask(t, w.out, "/slow")
	<-w.slow
	<-w.slow
	begun := time.Now()
	w.DrainListeners(ListenerDrain{InboundOnly: true, Graceful: true})
	w.DrainListeners(ListenerDrain{Graceful: true}) // one is under way already
	if !w.ask(t, w.in, "/").told(t) {
		t.Error("who came in the drain was not told to go")
	}
	if w.ask(t, w.out, "/").told(t) {
		t.Error("who came to the other listener was told to go")
	}
	eventually(t, "the inbound listener stops", func() bool { return refused(w.in) })
	if took := time.Since(begun); took < drain {
		t.Errorf("it stopped after %v", took)
	}
	// Whoever is still served is served to the end, however long it takes.
	close(w.release)
	if !in.told(t) {
		t.Error("who was served in the drain was not told to go")
	}
	if out.told(t) {
		t.Error("who was served by the other listener was told to go")
	}
}

func TestDrainsThatSkipTheExitGoOn(t *testing.T) {
	const drain = 50 * time.Millisecond
	w := startTwoWays(t, drain)
	w.DrainListeners(ListenerDrain{Graceful: true, SkipExit: true})
	<-time.After(3 * drain)
	for _, at := range []string{w.in, w.out} {
		if !w.ask(t, at, "/").told(t) {
			t.Errorf("%s: not told to go", at)
		}
	}
}
