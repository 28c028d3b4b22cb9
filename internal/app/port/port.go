// Package port is how the program's own ports for people and tools come to be:
// the admin port of a proxy, the monitoring port of a control plane, the
// plaintext xDS port of one machine.
//
// In come addresses and handlers, out go answers until a context ends. It
// keeps no state and knows no plane.
package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// StopGrace bounds the wait for open requests and streams when a port closes.
const StopGrace = 2 * time.Second

// headBytesMax bounds the head of a request: tools send short ones.
const headBytesMax = 64 << 10

// ErrNotLoopback refuses an address that other machines reach.
var ErrNotLoopback = errors.New("not a loopback address")

// CheckLoopback refuses addresses "host:port" that other machines reach with
// ErrNotLoopback.
func CheckLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	if host == "localhost" {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
		return nil
	}
	return fmt.Errorf("address %s: %w", address, ErrNotLoopback)
}

// Serve serves until ctx ends, then lets open requests finish, StopGrace at
// most.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: headBytesMax}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), StopGrace)
	defer cancel()
	if err := s.Shutdown(end); err != nil {
		_ = s.Close()
	}
	<-failed
	return nil
}

// WriteAddresses tells the bound addresses in a file, one a line, for whoever
// let the kernel choose ports. A reader sees all of them or none.
func WriteAddresses(path string, addresses ...string) error {
	return keyfile.Replace(path, []byte(strings.Join(addresses, "\n")+"\n"))
}
