package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// callers send requests to a proxy on kept-alive connections until they are
// told or find out that it is gone. They never repeat a request.
type callers struct {
	wg             sync.WaitGroup
	answered, lost atomic.Int64
	told, fresh    atomic.Int64 // connections that ended in order, and that were opened
	errs           sync.Map
}

func (c *callers) start(at string, n int) {
	for range n {
		c.wg.Go(func() {
			for c.connection(at) {
			}
		})
	}
}

// connection uses one connection; false: the proxy takes no new ones.
func (c *callers) connection(at string) bool {
	tcp, err := net.DialTimeout("tcp", at, 500*time.Millisecond)
	if err != nil {
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) && !isTimeout(err) {
			c.errs.Store(err.Error(), true)
		}
		return false
	}
	defer tcp.Close()
	_ = tcp.SetDeadline(time.Now().Add(20 * time.Second))
	c.fresh.Add(1)
	sock, err := conn.New(tcp)
	if err != nil {
		c.lose(err)
		return false
	}
	r := bufio.NewReader(tcp)
	for range 50 {
		if sock.Look() == conn.Ended {
			return true // this machine kept us waiting, and nothing is sent: an idle connection may end
		}
		_, err := io.WriteString(tcp, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		closes := false
		if err == nil {
			closes, err = readAnswer(r)
		}
		if err != nil {
			c.lose(err)
			return true
		}
		c.answered.Add(1)
		if closes {
			c.told.Add(1)
			return true
		}
	}
	return true
}

func (c *callers) lose(err error) {
	c.lost.Add(1)
	c.errs.Store(err.Error(), true)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// readAnswer reads a response with a length and says whether the connection
// ends with it.
func readAnswer(r *bufio.Reader) (closes bool, err error) {
	size := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false, err
		}
		if line == "\r\n" {
			break
		}
		_, _ = fmt.Sscanf(strings.ToLower(line), "content-length: %d", &size)
		closes = closes || strings.EqualFold(line, "connection: close\r\n")
	}
	_, err = r.Discard(size)
	return closes, err
}

func (c *callers) check(t *testing.T) {
	t.Helper()
	c.wg.Wait()
	c.errs.Range(func(err, _ any) bool { t.Log(err); return true })
	if c.lost.Load() != 0 || c.answered.Load() < 100 {
		t.Errorf("%d requests answered, %d lost, over %d connections", c.answered.Load(), c.lost.Load(), c.fresh.Load())
	}
}

// At SIGTERM no request is lost, on old connections or new ones.
func TestDrainUnderLoadLosesNothing(t *testing.T) {
	p := cartProxy(t, echo(t))
	var c callers
	c.start(p.addr(), 16)
	eventually(t, "load", func() bool { return c.answered.Load() > 200 })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begun := time.Now()
	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("new connections were taken for %v only", took)
	}
	c.check(t)
	if c.told.Load() < 16 {
		t.Errorf("%d connections were told to close", c.told.Load())
	}
}

// A listener that is removed loses nothing either.
func TestRemovalOfAListenerUnderLoadLosesNothing(t *testing.T) {
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}}
	p := start(t, s)
	var c callers
	c.start(p.addr(), 16)
	eventually(t, "load", func() bool { return c.answered.Load() > 200 })
	s.extra = func(p *generation.Parts) { p.Listeners = nil }
	if err := p.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	c.check(t)
	eventually(t, "all connections end", func() bool { return p.Open() == 0 })
	if len(p.Listening()) != 0 {
		t.Errorf("%v is open", p.Listening())
	}
}

// Edits of a listener that stays close nothing.
func TestEditsOfAListenerUnderLoadCloseNothing(t *testing.T) {
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}, manager: &listener.HTTPManager{}}
	p := start(t, s)
	c := p.dial(t)
	r := bufio.NewReader(c)
	for i := range 50 {
		s.manager.HeaderCountMax = uint32(100 + i) // another listener to whoever compares
		if err := p.Apply(s.config(t)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if closes, err := readAnswer(r); closes || err != nil {
			t.Fatalf("after %d edits: closes %v, %v", i, closes, err)
		}
	}
}

// A client that connects in a drain is served and told.
func TestNewConnectionsInADrainAreServedAndTold(t *testing.T) {
	release := make(chan struct{})
	b := serveWith(t, func(_ int, c net.Conn) {
		for r := bufio.NewReader(c); ; {
			raw, err := rawRequest(r)
			if err != nil {
				return
			}
			if strings.HasPrefix(raw, "GET /slow") {
				<-release
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	p := cartProxy(t, b)
	busy := p.dial(t)
	if _, err := io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slow request", func() bool { return b.accepted() == 1 })
	done := make(chan error, 1)
	at := p.addr()
	go func() { done <- p.Drain(t.Context()) }()
	eventually(t, "the drain", func() bool { return p.draining.Load() })
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || !strings.Contains(string(all), "200 OK") || !strings.Contains(string(all), "connection: close\r\n") {
		t.Errorf("%q, %v", all, err)
	}
	close(release)
	if all, err := io.ReadAll(busy); err != nil || !strings.Contains(string(all), "connection: close\r\n") {
		t.Errorf("%q, %v", all, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// So is one that speaks HTTP/2: a GOAWAY before its request would lose what is
// on its way.
func TestNewHTTP2ConnectionsInADrainAreServedAndTold(t *testing.T) {
	p := cartProxy(t, echo(t))
	busy := p.dial(t) // it keeps the listener open
	done := make(chan error, 1)
	at := p.addr()
	eventually(t, "the connection", func() bool { return p.Open() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { done <- p.Drain(ctx) }()
	eventually(t, "the drain", func() bool { return p.draining.Load() })
	c := client(t, true)
	for range 3 { // each on a connection of its own
		res, err := c.Get("http://" + at + "/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
	silent, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_ = silent.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(silent, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	const goAway = "\x07\x00\x00\x00\x00\x00"
	if all, err := io.ReadAll(silent); err != nil || !strings.Contains(string(all), goAway) {
		t.Errorf("one that does not ask: %q, %v", all, err)
	}
	busy.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Connections of bytes can't be told; they end when the listener's drain time
// is over, and not before.
func TestTCPConnectionsOfARemovedListenerEndInTime(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) })
	s := &setup{tcp: &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "db", Weight: 1}}, TotalWeight: 1}, clusters: []*cluster.Spec{static("db", b.at)}}
	p := start(t, s)
	p.opts.DrainTime = 600 * time.Millisecond // nothing is removed yet
	c := p.dial(t)
	say := func() error {
		if _, err := io.WriteString(c, "x"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	if err := say(); err != nil {
		t.Fatal(err)
	}
	s.extra = func(p *generation.Parts) { p.Listeners = nil }
	begun := time.Now()
	if err := p.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	if err := say(); err != nil {
		t.Errorf("right after the removal: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection did not end: %v", err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("it ended after %v", took)
	}
}

// An address that is given up and wanted again is free at once.
func TestAnAddressComesBackWhileItRetires(t *testing.T) {
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}}
	at := vacant(t)
	move := func(p *generation.Parts) {
		p.Listeners[0].Spec().Addresses[0] = at
		p.Listeners = remade(t, p.Listeners[0].Spec())
	}
	s.extra = move
	p := start(t, s)
	for range 3 {
		s.extra = func(p *generation.Parts) { p.Listeners = nil }
		if err := p.Apply(s.config(t)); err != nil {
			t.Fatal(err)
		}
		s.extra = move
		if err := p.Apply(s.config(t)); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, get); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(c); err != nil || !strings.Contains(string(all), "200 OK") {
			t.Errorf("%q, %v", all, err)
		}
		c.Close()
	}
}

// vacant is an address that may be listened at, as long as nobody else is given
// its port.
func vacant(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return conn.AddrPort(l.Addr())
}

func remade(t testing.TB, spec *listener.Spec) []*listener.Matcher {
	t.Helper()
	m, err := listener.NewMatcher(spec)
	if err != nil {
		t.Fatal(err)
	}
	return []*listener.Matcher{m}
}

// The time is over for requests that nobody answers too; they are not tried
// again, however safe that would be.
func TestRequestsInProgressEndWithTheDrainsTime(t *testing.T) {
	for _, down := range []bool{true, false} {
		t.Run(version(down), func(t *testing.T) {
			var came atomic.Int32
			b := serveWith(t, func(_ int, c net.Conn) {
				for r := bufio.NewReader(c); ; came.Add(1) {
					if _, err := rawRequest(r); err != nil {
						return
					}
				}
			})
			p := cartProxy(t, b)
			answered := make(chan error, 1)
			go func() {
				res, err := client(t, down).Get("http://" + p.addr() + "/silent")
				if err == nil {
					res.Body.Close()
				}
				answered <- err
			}()
			eventually(t, "the request is with the endpoint", func() bool { return came.Load() == 1 })
			p.opts.DrainTime = 200 * time.Millisecond
			if err := p.Drain(context.Background()); err != nil {
				t.Error(err)
			}
			if err := <-answered; err == nil {
				t.Error("the request was answered")
			}
			if log := p.logged(); log != "GET /silent 0 DC 0 0 cart\n" || came.Load() != 1 {
				t.Errorf("%d requests came; log %q", came.Load(), log)
			}
		})
	}
}
