package project_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// bindAlone binds a socket without SO_REUSEADDR, as some programs do.
func bindAlone(t *testing.T, at netip.AddrPort) error {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())})
}

func TestAReleasedPortIsFree(t *testing.T) {
	p := ports(t)
	at, err := p.Ask(t.Context(), netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	if bindAlone(t, at) == nil {
		t.Error("a socket that doesn't share got a held port")
	}
	if err := p.Release(at); err != nil {
		t.Fatal(err)
	}
	if err := bindAlone(t, at); err != nil {
		t.Errorf("after the release: %v", err)
	}
}
