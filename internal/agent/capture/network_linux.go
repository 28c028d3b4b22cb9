package capture

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/limit"
)

// Options are what a run's network is made with.
type Options struct {
	// State is the path of the file by which the next run finds what this one leaves when it is killed.
	State string
	// Subnet is the network of the workloads, IPv4 and at most /24; the zero value means 10.77.0.0/16. It is seen inside the namespaces
	// only and may be used elsewhere, too.
	Subnet netip.Prefix
}

// Network is the namespaces of one run and the bridge between them. Make it with Open; Close removes everything.
type Network struct {
	// Fixed at creation.
	run     string // random, names the tables
	state   string
	subnet  netip.Prefix
	gateway netip.Addr
	bridge  *os.File // the namespace that holds the bridge
	number  uint64   // of that namespace

	// Guarded by mu.
	mu     sync.Mutex
	next   netip.Addr
	spaces []*Namespace
	closed bool
}

// Namespace is one workload's network: lo, eth0 with an own address, and the rules of capture.
type Namespace struct {
	// Fixed at creation.
	name   string
	addr   netip.Addr
	number uint64

	// Guarded by mu.
	mu   sync.Mutex
	file *os.File // nil after Close
}

const (
	bridgeName = "mesh0"
	deviceName = "eth0"
)

// Open removes what a killed run of the same state file left, and makes an empty network. Where the rights for that are missing it
// returns ErrUnavailable with the reason and the remedy of Detect.
func Open(ctx context.Context, o Options) (*Network, error) {
	if !o.Subnet.IsValid() {
		o.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, 0}), 16)
	}
	if !o.Subnet.Addr().Is4() || o.Subnet.Bits() > 24 {
		return nil, fmt.Errorf("subnet %s of the namespaces is not an IPv4 network of /24 or more", o.Subnet)
	}
	if a := Detect(); a.Mode != Direct {
		return nil, fmt.Errorf("%w: %s; %s", ErrUnavailable, a.Reason, a.Remedy)
	}
	if o.State != "" {
		if err := removeLeft(ctx, o.State); err != nil {
			return nil, err
		}
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	n := &Network{run: hex.EncodeToString(id), state: o.State, subnet: o.Subnet.Masked()}
	n.gateway = n.subnet.Addr().Next()
	n.next = n.gateway
	err := onThread(func() (err error) {
		if n.bridge, n.number, err = newNetwork(); err != nil {
			return err
		}
		return n.makeBridge()
	})
	if err == nil {
		err = n.writeState()
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// makeBridge sets up the bridge in the namespace of the calling thread.
func (n *Network) makeBridge() error {
	if err := up("lo"); err != nil {
		return err
	}
	// The bridge holds an address, and nothing lies behind it: workloads speak to one another within the subnet.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge: %w; does the kernel have the bridge module?", err)
	}
	// There is no way out of the subnet. A machine that would forward, but has no route, says so at once (ICMP); others wait in silence.
	err := errors.Join(sysctl("net/ipv6/conf/"+bridgeName+"/disable_ipv6", "1"), sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv4/icmp_ratelimit", "0"))
	if err != nil {
		return err
	}
	return errors.Join(address4(bridgeName, netip.PrefixFrom(n.gateway, n.subnet.Bits())), up(bridgeName), markTable(tableName(n.run)))
}

// Gateway is the address of the bridge: what Listen listens on is reached at it from every namespace.
func (n *Network) Gateway() netip.Addr { return n.gateway }

// Add makes a namespace for a workload. With capture its traffic is redirected to a proxy inside (ports 15001, 15006, 15053); without, the
// namespace is a bare machine, as for a service outside of the mesh.
func (n *Network) Add(name string, captured bool) (*Namespace, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, err := n.placeLocked(name)
	if err != nil {
		return nil, err
	}
	s := &Namespace{name: name, addr: addr}
	peer := fmt.Sprintf("w%d", len(n.spaces)+1)
	err = onThread(func() (err error) {
		if s.file, s.number, err = newNetwork(); err != nil {
			return err
		}
		return s.setUp(n, peer, captured)
	})
	if err == nil {
		err = onThread(func() error { return n.attach(peer) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("namespace of %s: %w", name, err), s.Close())
	}
	n.next = addr
	n.spaces = append(n.spaces, s)
	return s, n.writeStateLocked()
}

// placeLocked is the address of one more namespace, if it may be made.
func (n *Network) placeLocked(name string) (netip.Addr, error) {
	if n.closed {
		return netip.Addr{}, errors.New("network is closed")
	}
	if len(n.spaces) >= limit.NamespacesMax {
		return netip.Addr{}, fmt.Errorf("%d namespaces, the limit is %d", len(n.spaces)+1, limit.NamespacesMax)
	}
	if slices.ContainsFunc(n.spaces, func(s *Namespace) bool { return s.name == name }) {
		return netip.Addr{}, fmt.Errorf("namespace %s is there already", name)
	}
	addr := n.next.Next()
	if !n.subnet.Contains(addr.Next()) { // the last address is for broadcast
		return netip.Addr{}, fmt.Errorf("subnet %s has no address left", n.subnet)
	}
	return addr, nil
}

// setUp makes lo, eth0 and the rules in the namespace of the calling thread.
func (s *Namespace) setUp(n *Network, peer string, captured bool) error {
	if err := up("lo"); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = deviceName
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(n.bridge.Fd())}); err != nil {
		return fmt.Errorf("make link to the bridge: %w; does the kernel have the veth module?", err)
	}
	// A process in a namespace of its own may take any port there, also port 80 without being root. IPv6 has no address on this link.
	err := errors.Join(
		sysctl("net/ipv4/ip_unprivileged_port_start", "0"), sysctl("net/ipv6/conf/"+deviceName+"/disable_ipv6", "1"),
		address4(deviceName, netip.PrefixFrom(s.addr, n.subnet.Bits())), up(deviceName))
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(deviceName)
	if err != nil {
		return fmt.Errorf("find %s: %w", deviceName, err)
	}
	// Everything has a route, because the rules redirect only what could be sent.
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	if !captured {
		return markTable(tableName(n.run))
	}
	return installRules(tableName(n.run))
}

// attach plugs a link's end into the bridge.
func (n *Network) attach(peer string) error {
	if err := enter(n.bridge); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	link, err := netlink.LinkByName(peer)
	if err != nil {
		return fmt.Errorf("find link %s: %w", peer, err)
	}
	if err := sysctl("net/ipv6/conf/"+peer+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("plug %s into the bridge: %w", peer, err)
	}
	return up(peer)
}

// Listen listens on the bridge: at Gateway for all namespaces, and for nothing else.
func (n *Network) Listen(ctx context.Context, port uint16) (net.Listener, error) {
	return listenIn(ctx, n.bridge, netip.AddrPortFrom(n.gateway, port))
}

// Dial connects from the bridge to an address of a namespace.
func (n *Network) Dial(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	return dialIn(ctx, n.bridge, address)
}

// Close kills every process in the namespaces, waits until they are gone, and lets the namespaces go: links, addresses and rules go with
// them. Close removes the state file last.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var errs error
	for _, s := range n.spaces {
		errs = errors.Join(errs, s.Close())
	}
	if n.bridge != nil {
		if n.number != 0 {
			errs = errors.Join(errs, killInside(n.number))
		}
		errs = errors.Join(errs, n.bridge.Close())
	}
	if n.state != "" && errs == nil {
		errs = removeState(n.state)
	}
	return errs
}

// Name is the workload's name, Addr its address.
func (s *Namespace) Name() string { return s.name }

// Addr is the workload's address, reachable from the other namespaces.
func (s *Namespace) Addr() netip.Addr { return s.addr }

// open returns a descriptor of its own for the namespace, or an error after Close.
func (s *Namespace) open() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil, fmt.Errorf("namespace %s is closed", s.name)
	}
	fd, err := unix.FcntlInt(s.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", s.name, err)
	}
	return os.NewFile(uintptr(fd), s.file.Name()), nil
}

// Enter runs fn on a thread inside the namespace and returns when fn has: processes that fn starts, and sockets that it opens, are
// inside. Goroutines that fn starts are not.
func (s *Namespace) Enter(fn func() error) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	return onThread(func() error {
		if err := enter(f); err != nil {
			return err
		}
		return fn()
	})
}

// Listen listens on an address inside the namespace.
func (s *Namespace) Listen(ctx context.Context, address netip.AddrPort) (net.Listener, error) {
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return listenIn(ctx, f, address)
}

// Dial connects from inside the namespace. With capture, what is dialled goes to the proxy unless the caller runs as ProxyUID.
func (s *Namespace) Dial(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return dialIn(ctx, f, address)
}

// Close kills every process in the namespace, waits until they are gone, and lets the namespace go.
func (s *Namespace) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	var errs error
	if s.number != 0 {
		errs = killInside(s.number)
	}
	errs = errors.Join(errs, s.file.Close())
	s.file = nil
	return errs
}

// listenIn and dialIn take literal addresses: the socket is then made by the calling goroutine's thread, which is inside.
func listenIn(ctx context.Context, ns *os.File, address netip.AddrPort) (ln net.Listener, err error) {
	err = onThread(func() error {
		if err := enter(ns); err != nil {
			return err
		}
		var lc net.ListenConfig
		ln, err = lc.Listen(ctx, "tcp4", address.String())
		return err
	})
	return ln, err
}

func dialIn(ctx context.Context, ns *os.File, address netip.AddrPort) (conn net.Conn, err error) {
	err = onThread(func() error {
		if err := enter(ns); err != nil {
			return err
		}
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp4", address.String())
		return err
	})
	return conn, err
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

func address4(name string, p netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, p, err)
	}
	return nil
}

// sysctl writes a value of the calling thread's network namespace. A kernel without IPv6 has nothing to switch off.
func sysctl(key, value string) error {
	err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(key, "net/ipv6/") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", strings.ReplaceAll(key, "/", "."), err)
	}
	return nil
}
