package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// corked holds what is written until it is let go, in one piece.
type corked struct {
	net.Conn
	on   bool
	held bytes.Buffer
}

func (c *corked) Write(p []byte) (int, error) {
	if c.on {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

// straying is a TLS server whose answers come with another record behind them,
// whose last bytes are cut off.
func straying(t *testing.T, answer, stray string, cut int) netip.AddrPort {
	t.Helper()
	with := httptest.NewUnstartedServer(nil)
	with.StartTLS()
	with.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				held := &corked{Conn: c}
				s := tls.Server(held, with.TLS)
				for r := bufio.NewReader(s); ; {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
					held.on = true
					_, _ = io.WriteString(s, answer)
					_, _ = io.WriteString(s, stray)
					held.on = false
					_, _ = c.Write(held.held.Next(held.held.Len() - cut))
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
	})
	return conn.AddrPort(l.Addr())
}

// Whoever took such a connection would take the stray bytes for an answer. They
// are in the TLS connection already, where the socket does not show them.
func TestConnectionsWithBytesThatNobodyAskedForAreNotUsedAgain(t *testing.T) {
	for _, c := range []struct {
		name, stray string
		cut         int
		again       bool
	}{
		{"nothing behind the answer", "", 0, true},
		{"another answer behind it", "HTTP/1.1 200 OK\r\n\r\n", 0, false},
		{"the most of one", "HTTP/1.1 200 OK\r\n\r\n", 7, false},
		{"the length of one", "HTTP/1.1 200 OK\r\n\r\n", 19 + 16 + 1, false}, // and its type and tag (RFC 8446 §5.2)
	} {
		for _, taken := range []string{"from the pool", "from another request"} {
			t.Run(c.name+", "+taken, func(t *testing.T) {
				l, _ := counted(t)
				spec := &Spec{Name: "c", Kind: EDS, MaxConnections: 1, TLS: []TLSMatch{{Spec: &etls.ClientSpec{SNI: "c"}}}}
				update(l, spec, assign(straying(t, "answer", c.stray, c.cut)))
				u, err := l.Get("c").Pick(0, netip.AddrPort{})
				if err != nil {
					t.Fatal(err)
				}
				used := connect(t, u, Use{})
				answer := make([]byte, len("answer"))
				if _, err := io.WriteString(used, "question\n"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(used, answer); err != nil {
					t.Fatal(err)
				}
				if taken == "from the pool" {
					used.Release(1)
					if got := u.Reuse(false, 2); (got == used) != c.again {
						t.Errorf("taken again: %t", got == used)
					}
					return
				}
				got := make(chan *Conn, 1)
				go func() {
					next, err := u.Connect(context.Background(), &Use{})
					if err != nil {
						t.Error(err)
					}
					got <- next
				}()
				waitFor(t, "the second request waits", func() bool { return u.cluster.queued.Load() == 1 })
				used.Release(1)
				next := <-got
				if (next == used) != c.again {
					t.Errorf("handed over: %t", next == used)
				}
				next.Close()
			})
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(10 * time.Second)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatal("never: " + what)
		}
	}
}
