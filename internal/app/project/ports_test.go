package project_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/tullemesh/tulle/internal/app/project"
)

// ports holds ports until the test ends, ready to be listened on.
func ports(t *testing.T) *project.Ports {
	t.Helper()
	p := &project.Ports{}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestHeldPortsGoToNobodyElse(t *testing.T) {
	p := ports(t)
	loopback := netip.MustParseAddr("127.0.0.1")
	held := map[netip.AddrPort]bool{}
	for range 500 {
		at, err := p.Ask(t.Context(), loopback)
		if err != nil {
			t.Fatal(err)
		}
		if held[at] {
			t.Fatalf("%s is given twice", at)
		}
		held[at] = true
	}
	for range 500 {
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if at := ln.Addr().(*net.TCPAddr).AddrPort(); held[at] {
			t.Fatalf("the kernel gave %s, which is held, to a listener", at)
		}
	}
}

func TestTheUserOfAHeldPortListens(t *testing.T) {
	p := ports(t)
	at, err := p.Ask(t.Context(), netip.MustParseAddr("127.0.0.3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Settle(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again after a restart
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		_ = ln.Close()
	}
}
