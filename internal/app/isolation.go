package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/agent/dns"
	"github.com/tullemesh/tulle/internal/app/process"
	"github.com/tullemesh/tulle/internal/app/project"
)

// The ports of a mesh inside its namespaces, which are Istio's.
const (
	insideXDS   = 15012
	insideAdmin = 15000
)

// clusterDomain is the domain of the services of a mesh on one machine.
const clusterDomain = "cluster.local"

// ErrRootless says that capture netns works here only in a user namespace: see
// RunRootless.
var ErrRootless = errors.New("network namespaces need a user namespace here")

// isolation is the network of a mesh in which a workload has capture netns.
// Then every proxy has a namespace, also the gateway and that of a workload
// with capture proxy, so that all proxies reach one another as pods do. What
// stays on the host (the control plane, applications with capture proxy or
// none, callers of the gateway) is joined by relays.
type isolation struct {
	// Fixed at creation.
	network *capture.Network
	spaces  map[string]*capture.Namespace // by workload
	relays  []relay
}

// relay joins connections; a listener that is nil is opened by Run at the
// address, which is held until then.
type relay struct {
	listener net.Listener
	at       netip.AddrPort
	dial     func(context.Context) (net.Conn, error)
}

func isCaptured(w project.Workload) bool { return w.Version.Capture == project.CaptureNetns }

// openIsolation makes the namespaces of a project; nil when it needs none.
func openIsolation(ctx context.Context, state string, p *project.Project) (*isolation, error) {
	workloads := p.Workloads()
	if !slices.ContainsFunc(workloads, isCaptured) {
		return nil, nil
	}
	switch a := capture.Detect(); a.Mode {
	case capture.Rootless:
		return nil, fmt.Errorf("%w: %s", ErrRootless, a.Reason)
	case capture.Unavailable:
		return nil, fmt.Errorf("%w: %s\n  %s", capture.ErrUnavailable, a.Reason, a.Remedy)
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	network, err := capture.Open(ctx, capture.Options{State: filepath.Join(state, "network.json")})
	if err != nil {
		return nil, err
	}
	i := &isolation{network: network, spaces: map[string]*capture.Namespace{}}
	add := func(name string, captured bool) {
		if err == nil {
			i.spaces[name], err = network.Add(name, captured)
		}
	}
	for _, w := range workloads {
		if w.Meshed() {
			add(w.Name, isCaptured(w))
		}
	}
	if len(p.GatewayPorts) > 0 {
		add(gatewayName, false)
	}
	if err != nil {
		return nil, errors.Join(err, i.close())
	}
	return i, nil
}

// close ends what is in the namespaces and removes them.
func (i *isolation) close() error {
	if i == nil {
		return nil
	}
	var errs error
	for _, r := range i.relays {
		if r.listener != nil {
			if err := r.listener.Close(); !errors.Is(err, net.ErrClosed) {
				errs = errors.Join(errs, err)
			}
		}
	}
	return errors.Join(errs, i.network.Close())
}

// inside are the addresses of the captured workloads.
func (i *isolation) inside(p *project.Project) map[string]netip.Addr {
	all := map[string]netip.Addr{}
	for _, w := range p.Workloads() {
		if isCaptured(w) {
			all[w.Name] = i.spaces[w.Name].Addr()
		}
	}
	return all
}

// outward makes an address of the host reachable from the namespaces, and
// returns where.
func (i *isolation) outward(ctx context.Context, port uint16, to netip.AddrPort) (netip.AddrPort, error) {
	l, err := i.network.Listen(ctx, port)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("relay to %s: %w", to, err)
	}
	i.relays = append(i.relays, relay{listener: l, dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	}})
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// inward makes an address inside of a workload's namespace reachable at an
// address of the host.
func (i *isolation) inward(workload string, at, inside netip.AddrPort) {
	space := i.spaces[workload]
	i.relays = append(i.relays, relay{at: at, dial: func(ctx context.Context) (net.Conn, error) { return space.Dial(ctx, inside) }})
}

// publish makes a port of a captured workload reachable at an address of the
// host, by way of its proxy, as any other client comes.
func (i *isolation) publish(workload string, at netip.AddrPort, port uint16) {
	to := netip.AddrPortFrom(i.spaces[workload].Addr(), port)
	i.relays = append(i.relays, relay{at: at, dial: func(ctx context.Context) (net.Conn, error) { return i.network.Dial(ctx, to) }})
}

// start runs the relays in a tier.
func (i *isolation) start(ctx context.Context, t *tier) error {
	if i == nil {
		return nil
	}
	for n, r := range i.relays {
		if r.listener == nil {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.at.String())
			if err != nil {
				return fmt.Errorf("listen for what is in a namespace: %w", err)
			}
			i.relays[n].listener, r.listener = l, l
		}
		t.group.Go(func() error { return capture.Relay(t.ctx, r.listener, r.dial) })
	}
	return nil
}

// assign gives every workload its addresses, and namespaces where the project
// wants them. What has none but is called from there gets a relay's address.
func (m *Mesh) assign(ctx context.Context) (err error) {
	if m.isolation, err = openIsolation(ctx, m.options.State, m.Project); err != nil {
		return err
	}
	i := m.isolation
	if i == nil {
		m.addresses, err = project.Assign(ctx, m.Project, nil, m.ports)
		return err
	}
	if m.addresses, err = project.Assign(ctx, m.Project, i.inside(m.Project), m.ports); err != nil {
		return err
	}
	for _, w := range m.Project.Workloads() {
		a := m.addresses[w.Name]
		switch {
		case isCaptured(w):
			for _, p := range w.Version.Publish {
				i.publish(w.Name, netip.AddrPortFrom(loopback(), p.Host), p.Port)
			}
		case w.Meshed():
			a.IP = i.spaces[w.Name].Addr()
		default:
			a.IP, a.Ports = i.network.Gateway(), map[string]uint16{}
			for name, at := range a.App {
				to, err := i.outward(ctx, 0, at)
				if err != nil {
					return err
				}
				a.Ports[name] = to.Port()
			}
		}
		m.addresses[w.Name] = a
	}
	return nil
}

// connect plans the relays between the host and the proxies' namespaces: a
// port that a proxy has on loopback is reached at the same port of the host's.
func (m *Mesh) connect(ctx context.Context) error {
	i := m.isolation
	if i == nil {
		return nil
	}
	if _, err := i.outward(ctx, insideXDS, m.xds); err != nil {
		return err
	}
	for _, w := range m.workloads {
		inside := w.admin
		if w.captured {
			inside = netip.AddrPortFrom(loopback(), insideAdmin)
		}
		i.inward(w.name, w.admin, inside)
		for _, at := range w.doors {
			i.inward(w.name, at, at)
		}
	}
	return nil
}

// appAddress is where the proxy of a workload reaches its application.
func (m *Mesh) appAddress(ctx context.Context, at netip.AddrPort) (netip.AddrPort, error) {
	if m.isolation == nil {
		return at, nil
	}
	return m.isolation.outward(ctx, 0, at)
}

// xdsAddress is where proxies reach the control plane.
func (m *Mesh) xdsAddress() netip.AddrPort {
	if m.isolation == nil {
		return m.xds
	}
	return netip.AddrPortFrom(m.isolation.network.Gateway(), insideXDS)
}

// isolateProxy puts a proxy into its namespace: under a user of its own, whom
// the rules of capture know, and with no capability left.
func (m *Mesh) isolateProxy(s *process.Spec, w *meshWorkload) {
	if m.isolation == nil {
		return
	}
	space := m.isolation.spaces[w.name]
	s.User, s.Dir = m.proxyUser(), "/"
	s.Enter = func(life func() error) error { return space.Enter(confined(life)) }
	if w.captured {
		at := netip.AddrPortFrom(loopback(), capture.DNSPort)
		s.Words = append(s.Words, "--dns", at.String())
	}
}

// isolateApp puts a captured application into its namespace.
func (m *Mesh) isolateApp(s *process.Spec, name string) {
	space := m.isolation.spaces[name]
	resolv := m.path(name + ".resolv")
	s.Enter = func(life func() error) error { return space.EnterNamed(resolv, confined(life)) }
	s.Ready.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return space.Dial(ctx, to)
	}
}

// confined runs a life on a thread from which no rights come back.
func confined(life func() error) func() error {
	return func() error {
		if err := capture.Confine(); err != nil {
			return err
		}
		return life()
	}
}

// writeResolv writes the resolv.conf of captured applications: their queries
// go to any server and are captured; the search domains are a pod's.
func (m *Mesh) writeResolv() error {
	for _, w := range m.workloads {
		if !w.captured {
			continue
		}
		c := dns.Resolv{Servers: []netip.AddrPort{netip.AddrPortFrom(m.isolation.network.Gateway(), 53)}, Search: dns.SearchDomains(w.namespace, clusterDomain)}
		if err := os.WriteFile(m.path(w.name+".resolv"), []byte(c.Text()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// invoker is whom an application runs as; nil: as ourselves.
func (m *Mesh) invoker(captured bool) (*process.User, error) {
	if m.options.Rootless {
		return nil, nil // root of the user namespace is the caller
	}
	value := func(name string) string {
		for _, e := range m.options.Environ {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	return process.Invoker(os.Geteuid(), value("SUDO_UID"), value("SUDO_GID"), captured)
}
