package engine

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"
	"unsafe"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// TestAConnectionEndsAtItsMaxDuration (Envoy:
// common_http_protocol_options.max_connection_duration): used or not, it drains.
func TestAConnectionEndsAtItsMaxDuration(t *testing.T) {
	for name, requests := range map[string]int{"never used": 0, "idle after a request": 1} {
		t.Run(name, func(t *testing.T) {
			p := start(t, &setup{manager: &listener.HTTPManager{MaxConnectionDuration: 200 * time.Millisecond},
				routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{static("cart", echo(t).at)}})
			c, err := net.Dial("tcp", p.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			r := bufio.NewReader(c)
			for range requests {
				if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				if closes, err := readAnswer(r); err != nil || closes {
					t.Fatalf("closes: %v, %v", closes, err)
				}
			}
			if n, err := r.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("read %d bytes, %v; want the end", n, err)
			}
		})
	}
}

// TestAnIdleConnectionFitsItsSize: ten thousand of them are what a gateway's
// memory is. These are the allocator's size classes; before you raise one, look
// for what only few connections need and put it behind a pointer.
func TestAnIdleConnectionFitsItsSize(t *testing.T) {
	if n := unsafe.Sizeof(downstream.Conn{}); n > 576 {
		t.Errorf("a downstream connection has %d bytes, want 576", n)
	}
	if n := unsafe.Sizeof(conn.Guard{}); n > 128 {
		t.Errorf("its guard has %d bytes, want 128", n)
	}
}
