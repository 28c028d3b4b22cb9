package engine

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// toTCP forwards all bytes to a cluster.
func toTCP(name string) *listener.TCPProxy {
	return &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: name, Weight: 1}}, TotalWeight: 1}
}

// repeater sends back what it hears, with its name first.
func repeater(t testing.TB, name string) *backend {
	return serveWith(t, func(_ int, c net.Conn) {
		_, _ = io.WriteString(c, name)
		_, _ = io.Copy(c, c)
	})
}

// Every end of a TCP connection has Envoy's flag.
func TestTCPConnectionsEndWithEnvoysFlags(t *testing.T) {
	b := repeater(t, "db")
	short, idle := toTCP("db"), toTCP("db")
	short.MaxDuration, idle.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond
	tries := toTCP("db")
	tries.MaxConnectTries = 3
	for _, c := range []struct {
		name     string
		tcp      *listener.TCPProxy
		clusters []*cluster.Spec
		want     string
	}{
		{"nobody listens", toTCP("db"), []*cluster.Spec{static("db", dead(t))}, "tcp UF,URX 0 0\n"},
		{"nobody listens, thrice", tries, []*cluster.Spec{static("db", dead(t))}, "tcp UF,URX 0 0\n"},
		{"no cluster", toTCP("db"), nil, "tcp NC 0 0\n"},
		{"no endpoint", toTCP("db"), []*cluster.Spec{static("db")}, "tcp UH 0 0\n"},
		{"too old", short, []*cluster.Spec{static("db", b.at)}, "tcp DT 0 2\n"},
		{"idle", idle, []*cluster.Spec{static("db", b.at)}, "tcp - 0 2\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, &setup{tcp: c.tcp, clusters: c.clusters})
			conn := p.dial(t)
			_, _ = io.Copy(io.Discard, conn) // a reset is an end as well
			if log := p.logged(); log != c.want {
				t.Errorf("log %q, want %q", log, c.want)
			}
		})
	}
}

// Beyond the cluster's connections nobody waits (Envoy: tcp_proxy asks the
// breaker before its pool).
func TestTCPConnectionsBeyondTheThresholdOverflow(t *testing.T) {
	full := static("db", repeater(t, "db").at)
	full.MaxConnections, full.MaxPending = 1, 1
	p := start(t, &setup{tcp: toTCP("db"), clusters: []*cluster.Spec{full}})
	first := p.dial(t)
	if _, err := io.ReadFull(first, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if got := p.talk(t, ""); got != "" {
		t.Errorf("got %q", got)
	}
	first.Close()
	eventually(t, "both end", func() bool { return p.Open() == 0 })
	if log := p.logged(); log != "tcp UO 0 0\ntcp - 0 2\n" {
		t.Errorf("log %q", log)
	}
}

func TestTCPConnectionsAreSharedByWeight(t *testing.T) {
	a, b := repeater(t, "a"), repeater(t, "b")
	p := start(t, &setup{clusters: []*cluster.Spec{static("a", a.at), static("b", b.at)},
		tcp: &listener.TCPProxy{Clusters: []router.Weighted{{Cluster: "a", Weight: 3}, {Cluster: "b", Weight: 1}, {Cluster: "none", Weight: 0}}, TotalWeight: 4}})
	got := map[string]int{}
	for range 200 {
		c := p.dial(t)
		name := make([]byte, 1)
		if _, err := io.ReadFull(c, name); err != nil {
			t.Fatal(err)
		}
		got[string(name)]++
		c.Close()
	}
	if got["a"] < 120 || got["a"] > 180 || got["a"]+got["b"] != 200 {
		t.Errorf("%v of 200, weights are 3 and 1", got)
	}
}

// TLS goes through untouched to where its server name says.
func TestTLSIsPassedThroughByServerName(t *testing.T) {
	a := newAuthority(t)
	pair := a.certificate(t, cartID, nil)
	server := func(name string) *backend {
		return serveWith(t, func(_ int, c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
			_, _ = io.WriteString(s, name)
			s.Close()
		})
	}
	one, all := server("one"), server("all")
	p := start(t, &setup{tcp: toTCP("all"), clusters: []*cluster.Spec{static("one", one.at), static("all", all.at)}, extra: func(p *generation.Parts) {
		spec := p.Listeners[0].Spec()
		spec.InspectTLS = true
		spec.Chains[0].Match.ServerNames = []string{"*.shop.example"}
		spec.Chains = append(spec.Chains, &listener.Chain{Name: "one", Match: listener.ChainMatch{ServerNames: []string{"one.shop.example"}}, TCP: toTCP("one")})
		p.Listeners = remade(t, spec)
	}})
	for name, want := range map[string]string{"one.shop.example": "one", "ONE.shop.example": "one", "two.shop.example": "all", "a.b.shop.example": "all", "shop.example": "", "": ""} {
		c := tls.Client(p.dial(t), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if got, err := io.ReadAll(c); string(got) != want {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}

// What one side says after the other has ended still arrives.
func TestHalfClosedTCPConnectionsGoOn(t *testing.T) {
	b := serveWith(t, func(_ int, c net.Conn) {
		all, _ := io.ReadAll(c)
		_, _ = io.WriteString(c, "heard "+string(all))
	})
	p := start(t, &setup{tcp: toTCP("db"), clusters: []*cluster.Spec{static("db", b.at)}})
	c := p.dial(t).(*net.TCPConn)
	said := strings.Repeat("word ", 100_000)
	if _, err := io.WriteString(c, said); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || string(all) != "heard "+said {
		t.Errorf("%d bytes, %v", len(all), err)
	}
}
