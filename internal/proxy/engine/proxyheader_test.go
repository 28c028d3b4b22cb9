package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// toldListener takes connections that begin with a PROXY header of one version.
type toldListener struct {
	net.Listener
	version int
}

// toldConn knows what its PROXY header said.
type toldConn struct {
	net.Conn
	header listener.ProxyHeader
}

func (l *toldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // a failed test must end
	wants := &listener.ProxyProtocol{WithoutV1: l.version == 2, WithoutV2: l.version == 1}
	var raw []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, one); err != nil {
			return &toldConn{Conn: c}, nil
		}
		raw = append(raw, one...)
		h, _, s, err := wants.ReadProxyHeader(raw)
		if err != nil {
			c.Close()
			return &toldConn{Conn: c}, nil
		}
		if s == listener.Yes {
			_ = c.SetReadDeadline(time.Time{})
			return &toldConn{c, h}, nil
		}
	}
}

// listenTold listens for connections with PROXY headers.
func listenTold(t testing.TB, version int) *toldListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &toldListener{l, version}
}

type toldKey struct{}

// tellingHTTP serves HTTP of both versions behind PROXY headers, perhaps under
// TLS. It answers with its own connection and what the header said.
func tellingHTTP(t testing.TB, version int, secure *tls.Config) netip.AddrPort {
	t.Helper()
	l := listenTold(t, version)
	var served net.Listener = l
	s := &http.Server{Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(toldKey{}).(*toldConn)
		fmt.Fprintf(w, "%s: %s to %s", r.RemoteAddr, c.header.Source, c.header.Destination)
	}), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		return context.WithValue(ctx, toldKey{}, c)
	}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	if secure != nil {
		served = tls.NewListener(l, secure)
	}
	var work sync.WaitGroup
	work.Go(func() { _ = s.Serve(served) })
	t.Cleanup(func() { s.Close(); work.Wait() })
	return conn.AddrPort(l.Addr())
}

// told is a cluster whose connections begin with a PROXY header.
func told(two bool, at netip.AddrPort, version int, spec *etls.ClientSpec) *cluster.Spec {
	c := speaking(two, "cart", at)
	c.TLS = []cluster.TLSMatch{{Spec: spec, Proxy: version}}
	return c
}

// The endpoint learns each client's own address, and no connection serves two
// clients, though the requests could share.
func TestUpstreamConnectionsBeginWithAProxyHeader(t *testing.T) {
	a := newAuthority(t)
	pair := a.certificate(t, cartID, nil)
	for _, two := range []bool{false, true} {
		for _, secure := range []bool{false, true} {
			for n := 1; n <= 2; n++ {
				t.Run(fmt.Sprintf("%s/TLS %v/version %d", version(two), secure, n), func(t *testing.T) {
					var server *tls.Config
					var spec *etls.ClientSpec
					if secure {
						server = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
						spec = &etls.ClientSpec{Validation: "ROOTCA"}
					}
					at := tellingHTTP(t, n, server)
					p := start(t, &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{told(two, at, n, spec)},
						extra: func(p *generation.Parts) { p.Secrets = map[string]*etls.Secret{"ROOTCA": a.roots()} }})
					askedByTwo(t, p)
				})
			}
		}
	}
}

// askedByTwo lets two clients take turns on connections that they keep.
func askedByTwo(t *testing.T, p *proxy) {
	t.Helper()
	users := map[string]string{} // client by upstream connection
	clients := []net.Conn{p.dial(t), p.dial(t)}
	for range 3 {
		for _, c := range clients {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			got := oneAnswer(t, c)
			upstream, header, _ := strings.Cut(got, ": ")
			if want := c.LocalAddr().String() + " to " + c.RemoteAddr().String(); header != want {
				t.Fatalf("the endpoint was told %q, want %q", got, want)
			}
			if before, ok := users[upstream]; ok && before != c.LocalAddr().String() {
				t.Errorf("connection %s served %s and %s", upstream, before, c.LocalAddr())
			}
			users[upstream] = c.LocalAddr().String()
		}
	}
	for _, c := range clients {
		c.Close()
	}
	u := p.Live().Get("cart").Members()[0].Host.Upstream()
	eventually(t, "the endpoint's connections end with their requests", func() bool { return u.Counts.ConnActive.Load() == 0 })
}

// oneAnswer reads the body of a 200 with Content-Length or chunks.
func oneAnswer(t *testing.T, c net.Conn) string {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%d %q, %v", res.StatusCode, body, err)
	}
	return string(body)
}

// What is passed through without HTTP is told as well, before its own bytes.
func TestTCPUpstreamsAreToldTheClient(t *testing.T) {
	a := newAuthority(t)
	pair := a.certificate(t, cartID, nil)
	for _, c := range []struct {
		name    string
		version int
		secure  bool
	}{{"version 1", 1, false}, {"version 2", 2, false}, {"version 1 before TLS", 1, true}, {"version 2 before TLS", 2, true}} {
		t.Run(c.name, func(t *testing.T) {
			l := listenTold(t, c.version)
			var work sync.WaitGroup
			t.Cleanup(func() { l.Close(); work.Wait() })
			work.Go(func() {
				for {
					raw, err := l.Accept()
					if err != nil {
						return
					}
					header := raw.(*toldConn).header
					if c.secure {
						raw = tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{pair}})
					}
					said, _ := io.ReadAll(raw)
					fmt.Fprintf(raw, "%s from %s to %s", said, header.Source, header.Destination)
					raw.Close()
				}
			})
			spec := static("db", conn.AddrPort(l.Addr()))
			match := cluster.TLSMatch{Proxy: c.version}
			if c.secure {
				match.Spec = &etls.ClientSpec{Validation: "ROOTCA"}
			}
			spec.TLS = []cluster.TLSMatch{match}
			p := start(t, &setup{tcp: toTCP("db"), clusters: []*cluster.Spec{spec},
				extra: func(p *generation.Parts) { p.Secrets = map[string]*etls.Secret{"ROOTCA": a.roots()} }})
			client := p.dial(t).(*net.TCPConn)
			if _, err := io.WriteString(client, "hello"); err != nil {
				t.Fatal(err)
			}
			_ = client.CloseWrite()
			got, err := io.ReadAll(client)
			if want := fmt.Sprintf("hello from %s to %s", client.LocalAddr(), client.RemoteAddr()); err != nil || string(got) != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		})
	}
}

// A client that a PROXY header restated is passed on as it said.
func TestTheProxyHeaderIsPassedOn(t *testing.T) {
	at := tellingHTTP(t, 2, nil)
	p := sniffing(t, listener.Inbound, nil, told(false, at, 2, nil), static("db", greeter(t).at), func(s *listener.Spec) { s.Proxy = &listener.ProxyProtocol{} })
	got := p.talk(t, "PROXY TCP4 10.1.2.3 192.0.2.1 4660 443\r\n"+askOnce)
	if !strings.HasSuffix(got, ": 10.1.2.3:4660 to 192.0.2.1:443") {
		t.Errorf("%q", got)
	}
}

// A new version of the header is a new transport: what was connected before
// does not serve any more.
func TestANewProxyHeaderVersionConnectsAnew(t *testing.T) {
	at := tellingHTTP(t, 2, nil)
	s := &setup{routes: []*router.Route{to("/", "cart")}, clusters: []*cluster.Spec{told(false, at, 1, nil)}}
	p := start(t, s)
	if got := p.talk(t, askOnce); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Fatalf("the endpoint takes version 2 only: %q", got)
	}
	s.clusters = []*cluster.Spec{told(false, at, 2, nil)}
	if err := p.Apply(s.config(t)); err != nil {
		t.Fatal(err)
	}
	if got := p.talk(t, askOnce); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q", got)
	}
}
