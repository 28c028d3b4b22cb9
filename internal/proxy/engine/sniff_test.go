package engine

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	etls "github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// greeter speaks first, as MySQL does, and then repeats lines.
func greeter(t testing.TB) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		_, _ = io.WriteString(c, "greetings\n")
		_, _ = io.Copy(c, c)
	})
}

const sniffTime = 3 * time.Second // far above what any greeting may take

// How long clients may be silent where servers speak first, at first and where
// that is known (package downstream).
const (
	patienceFirst   = 100 * time.Millisecond
	patienceLearned = 5 * time.Millisecond
)

// sniffing is a sidecar that looks at first bytes: HTTP goes to web, TLS ends
// here when a is given, all else is bytes to raw.
func sniffing(t testing.TB, direction listener.Direction, a *authority, web, raw *cluster.Spec, edit func(*listener.Spec)) *proxy {
	t.Helper()
	return start(t, &setup{routes: []*router.Route{to("/", web.Name)}, clusters: []*cluster.Spec{web, raw}, extra: func(p *generation.Parts) {
		http := *p.Listeners[0].Spec().Chains[0]
		http.Name, http.Match = "http", listener.ChainMatch{Transport: "raw_buffer", ApplicationProtos: []string{"http/1.1", "h2c"}}
		bytes := &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: raw.Name, Weight: 1}}, TotalWeight: 1,
			AccessLog: []listener.AccessLog{{Path: "log", Format: "tcp %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\n"}}}
		spec := &listener.Spec{
			Name: "l", Addresses: []netip.AddrPort{listenAny()}, BindToPort: true, Direction: direction,
			InspectTLS: true, InspectHTTP: true, SniffTimeout: sniffTime, ContinueOnTimeout: true,
			Chains: []*listener.Chain{&http, {Name: "raw", Match: listener.ChainMatch{Transport: "raw_buffer"}, TCP: bytes}},
		}
		if a != nil {
			p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", cartID), "ROOTCA": a.roots()}
			spec.Chains = append(spec.Chains, &listener.Chain{Name: "mtls", Match: listener.ChainMatch{Transport: "tls"}, TCP: bytes,
				TLS: &etls.ServerSpec{Certificates: []string{"default"}, Validation: "ROOTCA", RequireClientCert: true, ALPN: []string{"istio"}}})
		}
		if edit != nil {
			edit(spec)
		}
		m, err := listener.NewMatcher(spec)
		if err != nil {
			t.Fatal(err)
		}
		p.Listeners = []*listener.Matcher{m}
	}})
}

// greeting opens a connection, says nothing and returns how long the server's
// words took.
func (p *proxy) greeting(t testing.TB) time.Duration {
	t.Helper()
	c := p.dial(t)
	begun := time.Now()
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || line != "greetings\n" {
		t.Fatalf("greeting %q, %v", line, err)
	}
	took := time.Since(begun)
	if _, err := io.WriteString(c, "query\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "query\n" {
		t.Fatalf("answer %q, %v", line, err)
	}
	c.Close()
	return took
}

// A server that speaks first is heard long before the sniffing ends, and at
// once when that is known of it.
func TestServersThatSpeakFirst(t *testing.T) {
	b := greeter(t)
	for name, direction := range map[string]listener.Direction{"outbound": listener.Outbound, "inbound": listener.Inbound} {
		t.Run(name, func(t *testing.T) {
			p := sniffing(t, direction, nil, static("web", dead(t)), static("db", b.at), nil)
			if first := p.greeting(t); first < patienceFirst-50*time.Millisecond || first > sniffTime/2 {
				t.Errorf("the first greeting came after %v, want some %v", first, patienceFirst)
			}
			best := sniffTime
			for range 5 { // the machine may be busy
				best = min(best, p.greeting(t))
			}
			if best > 50*time.Millisecond {
				t.Errorf("the best of the later greetings came after %v, want some %v", best, patienceLearned)
			}
			t.Logf("learned: %v", best)
			if log := p.logged(); strings.Count(log, "tcp - 6 16 127.0.0.1:") != 6 {
				t.Errorf("log %q", log)
			}
		})
	}
}

// Two sidecars: the outer one's mutual TLS begins only when it connects for
// the silent client.
func TestServersThatSpeakFirstThroughTwoSidecars(t *testing.T) {
	a := newAuthority(t)
	in := sniffing(t, listener.Inbound, a, static("web", dead(t)), static("db", greeter(t).at), nil)
	hop := static("db", in.Listening()[listenAny()])
	hop.TLS = []cluster.TLSMatch{{Spec: &etls.ClientSpec{Certificate: "default", Validation: "ROOTCA", ALPN: []string{"istio"}, SNI: "db"}}}
	out := start(t, &setup{routes: nil, tcp: &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "db", Weight: 1}}, TotalWeight: 1},
		clusters: []*cluster.Spec{hop}, extra: func(p *generation.Parts) {
			p.Secrets = map[string]*etls.Secret{"default": a.issue(t, "default", otherID), "ROOTCA": a.roots()}
			s := p.Listeners[0].Spec()
			s.InspectTLS, s.InspectHTTP, s.SniffTimeout, s.ContinueOnTimeout = true, true, sniffTime, true
		}})
	for range 3 {
		if took := out.greeting(t); took > sniffTime/2 {
			t.Errorf("the greeting came after %v", took)
		}
	}
}

// What the client says decides, as long as it says it before it was answered:
// the connection made meanwhile is used if the decision is the same, else closed.
func TestALateClientIsStillSniffed(t *testing.T) {
	quiet := serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) })
	web := echo(t)
	a := newAuthority(t)
	for _, c := range []struct{ name, first, want string }{
		{"HTTP", get, "HTTP/1.1 200 OK\r\n"},
		{"bytes", "\x00\x01bytes", "\x00\x01bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := quiet.accepted()
			p := sniffing(t, listener.Inbound, a, static("web", web.at), static("db", quiet.at), nil)
			client := p.dial(t)
			eventually(t, "the upstream is connected while the client is silent", func() bool { return quiet.accepted() > before })
			if _, err := io.WriteString(client, c.first); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(c.want))
			if _, err := io.ReadFull(client, got); err != nil || string(got) != c.want {
				t.Errorf("%q, %v", got, err)
			}
			client.Close()
			p.stop()
			if n := quiet.accepted() - before; n != 1 {
				t.Errorf("%d connections to the upstream, want 1", n)
			}
		})
	}
}

// Where a mesh's TLS and plaintext meet at one port, a server that is known to
// speak first does not shorten the time of the clients that speak TLS.
func TestTLSClientsKeepTheirTimeWhereServersSpeakFirst(t *testing.T) {
	a := newAuthority(t)
	p := sniffing(t, listener.Inbound, a, static("web", dead(t)), static("db", greeter(t).at), nil)
	p.greeting(t)
	hello := func(delay time.Duration) error {
		c := &struct{ net.Conn }{}
		client := tlsClient(t, a, c) // its certificate is none of the time that the client takes
		c.Conn = p.dial(t)
		<-time.After(delay)
		line, err := bufio.NewReader(client).ReadString('\n')
		if err == nil && line != "greetings\n" {
			err = fmt.Errorf("greeting %q", line)
		}
		return err
	}
	if err := hello(0); err != nil {
		t.Fatal(err)
	}
	if err := hello(4 * patienceLearned); err != nil {
		t.Errorf("a TLS client that took its time: %v", err)
	}
}

// Nobody's upstream is connected before the connection is allowed.
func TestSilenceOpensNoForbiddenConnections(t *testing.T) {
	b := greeter(t)
	for name, edit := range map[string]func(*listener.Spec){
		"denied": func(s *listener.Spec) {
			s.Chains[1].L4 = []*authz.Policies{{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{Name: "nobody",
				Permission: authz.Condition{Kind: authz.Any}, Principal: authz.Condition{Kind: authz.Any}}}}}}
		},
		"silence is refused": func(s *listener.Spec) { s.ContinueOnTimeout = false },
	} {
		t.Run(name, func(t *testing.T) {
			before := b.accepted()
			p := sniffing(t, listener.Inbound, nil, static("web", dead(t)), static("db", b.at), func(s *listener.Spec) {
				s.SniffTimeout = 200 * time.Millisecond
				edit(s)
			})
			if got := p.talk(t, ""); got != "" {
				t.Errorf("got %q", got)
			}
			if b.accepted() != before {
				t.Error("the upstream was connected")
			}
		})
	}
}

// A client and a server that both wait are connected when the sniffing ends.
func TestSilenceOnBothSidesEndsWithTheSniffing(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) })
	p := sniffing(t, listener.Inbound, nil, static("web", dead(t)), static("db", b.at), func(s *listener.Spec) { s.SniffTimeout = 100 * time.Millisecond })
	c := p.dial(t)
	opened := func() float64 { return p.registry.Sum("istio_tcp_connections_opened_total") }
	eventually(t, "the connection is served", func() bool { return opened() == 1 })
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if n := b.accepted(); n != 1 {
		t.Errorf("%d upstream connections", n)
	}
}

// Clients that leave while they are silent leave nothing behind.
func TestSilentClientsMayLeave(t *testing.T) {
	b := greeter(t)
	p := sniffing(t, listener.Inbound, nil, static("web", dead(t)), static("db", b.at), nil)
	p.greeting(t)
	for i := range 20 {
		c := p.dial(t)
		if i%2 == 0 {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	eventually(t, "all connections end", func() bool { return p.Open() == 0 })
}

// Policies, logs and chains go by what the PROXY header says.
func TestProxyHeaderRestatesTheClient(t *testing.T) {
	b := echo(t)
	denyTen := &authz.Policies{Rules: &authz.Rules{Action: authz.Deny, Policies: []authz.Policy{{Name: "ten",
		Permission: authz.Condition{Kind: authz.Any},
		Principal:  authz.Condition{Kind: authz.RemoteIP, Prefix: netip.MustParsePrefix("10.9.0.0/16")}}}}}
	p := sniffing(t, listener.Inbound, nil, static("web", b.at), static("db", greeter(t).at), func(s *listener.Spec) {
		s.Proxy = &listener.ProxyProtocol{}
		for _, c := range s.Chains {
			c.L4 = []*authz.Policies{denyTen}
		}
	})
	const one = "PROXY TCP4 10.1.2.3 192.0.2.1 4660 443\r\n"
	for _, c := range []struct{ name, raw, want string }{
		{"version 1", one + get, "HTTP/1.1 200 OK\r\n"},
		{"version 2", string(listener.AppendProxyHeader(nil, 2, netip.MustParseAddrPort("10.1.2.3:4660"), netip.MustParseAddrPort("192.0.2.1:443"))) + get, "HTTP/1.1 200 OK\r\n"},
		{"unknown", "PROXY UNKNOWN\r\n" + get, "HTTP/1.1 200 OK\r\n"},
		{"denied by its address", strings.Replace(one, "10.1.", "10.9.", 1) + get, ""},
		{"no header", get, ""},
		{"malformed", "PROXY TCP4 x\r\n" + get, ""},
		{"header that never ends", "PROXY TCP4 " + strings.Repeat("1", 200), ""},
		{"bytes for which the server speaks first", one, "greetings\n"},
	} {
		client := p.dial(t)
		for i := range min(len(c.raw), 60) { // piece by piece
			if _, err := io.WriteString(client, c.raw[i:i+1]); err != nil {
				break
			}
		}
		if len(c.raw) > 60 {
			_, _ = io.WriteString(client, c.raw[60:]) // the proxy may have closed
		}
		got := make([]byte, max(len(c.want), 1))
		n, _ := io.ReadFull(client, got)
		if string(got[:n]) != c.want {
			t.Errorf("%s: %q", c.name, got[:n])
		}
		client.Close()
	}
	if log := p.logged(); !strings.Contains(log, " 10.1.2.3:4660 127.0.0.1\n") {
		t.Errorf("log %q", log)
	}
}

// Where a header is needed, silence is not let in when the sniffing ends.
func TestSilenceIsNoProxyHeader(t *testing.T) {
	b := greeter(t)
	p := sniffing(t, listener.Inbound, nil, static("web", dead(t)), static("db", b.at), func(s *listener.Spec) {
		s.Proxy, s.SniffTimeout = &listener.ProxyProtocol{}, 50*time.Millisecond
	})
	if got := p.talk(t, ""); got != "" || b.accepted() != 0 {
		t.Errorf("got %q over %d connections", got, b.accepted())
	}
}
