//go:build !linux

package capture

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
)

// Options are what a run's network is made with; see network_linux.go.
type Options struct {
	State  string
	Subnet netip.Prefix
}

// Network cannot be made here: network namespaces are Linux's.
type Network struct{}

// Namespace cannot be made here: network namespaces are Linux's.
type Namespace struct{}

// Detect says that capture netns is Linux's.
func Detect() Ability {
	return Ability{Mode: Unavailable, Reason: "network namespaces are a feature of Linux", Remedy: "use capture: proxy"}
}

func unavailable() error {
	a := Detect()
	return fmt.Errorf("%w: %s; %s", ErrUnavailable, a.Reason, a.Remedy)
}

// Open returns ErrUnavailable.
func Open(context.Context, Options) (*Network, error) { return nil, unavailable() }

// Gateway is no address: there is no Network.
func (n *Network) Gateway() netip.Addr { return netip.Addr{} }

// Add returns ErrUnavailable.
func (n *Network) Add(string, bool) (*Namespace, error) { return nil, unavailable() }

// Listen returns ErrUnavailable.
func (n *Network) Listen(context.Context, uint16) (net.Listener, error) { return nil, unavailable() }

// Dial returns ErrUnavailable.
func (n *Network) Dial(context.Context, netip.AddrPort) (net.Conn, error) { return nil, unavailable() }

// Close has nothing to close.
func (n *Network) Close() error { return nil }

// Name is empty: there is no Namespace.
func (s *Namespace) Name() string { return "" }

// Addr is no address: there is no Namespace.
func (s *Namespace) Addr() netip.Addr { return netip.Addr{} }

// Enter returns ErrUnavailable.
func (s *Namespace) Enter(func() error) error { return unavailable() }

// EnterNamed returns ErrUnavailable.
func (s *Namespace) EnterNamed(string, func() error) error { return unavailable() }

// Listen returns ErrUnavailable.
func (s *Namespace) Listen(context.Context, netip.AddrPort) (net.Listener, error) {
	return nil, unavailable()
}

// Dial returns ErrUnavailable.
func (s *Namespace) Dial(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, unavailable()
}

// Close has nothing to close.
func (s *Namespace) Close() error { return nil }

// Confine returns ErrUnavailable.
func Confine() error { return unavailable() }

// StartRootless returns ErrUnavailable.
func StartRootless(context.Context, []string, []string, []string) (*exec.Cmd, error) {
	return nil, unavailable()
}

// EnterRootless returns ErrUnavailable.
func EnterRootless([]string, []string) error { return unavailable() }

// DieWithParent returns ErrUnavailable.
func DieWithParent() error { return unavailable() }
