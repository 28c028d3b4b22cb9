package project

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Address is where the ports of a workload are.
type Address struct {
	// IP is the published address, which other proxies and the gateway dial: that of the WorkloadEntry.
	IP netip.Addr
	// Ports are the published ports, by port name. With a proxy they are the proxy's, else the application's.
	Ports map[string]uint16
	// App is where the application itself listens, by port name.
	App map[string]netip.AddrPort
}

// Assign gives every workload its addresses. Workloads with a network namespace, whose addresses are inside, keep the ports of their
// service; all others get ports of loopback, which ports holds.
func Assign(ctx context.Context, p *Project, inside map[string]netip.Addr, ports *Ports) (map[string]Address, error) {
	all := map[string]Address{}
	for _, w := range p.Workloads() {
		a := Address{IP: w.Service.Listen, Ports: map[string]uint16{}, App: map[string]netip.AddrPort{}}
		own, hasOwn := inside[w.Name]
		if hasOwn != (w.Version.Capture == CaptureNetns) {
			return nil, fmt.Errorf("workload %s has capture %s, and an address in a namespace: %v", w.Name, w.Version.Capture, hasOwn)
		}
		for _, port := range w.Service.Ports {
			attached, isAttached := w.Version.Attach[port.Name]
			switch {
			case hasOwn:
				a.IP, a.Ports[port.Name], a.App[port.Name] = own, port.Number, netip.AddrPortFrom(own, port.Number)
				continue
			case isAttached:
				a.App[port.Name] = attached
			default:
				at, err := ports.Ask(ctx, w.Service.Listen)
				if err != nil {
					return nil, fmt.Errorf("port %s of workload %s: %w", port.Name, w.Name, err)
				}
				a.App[port.Name] = at
			}
			if !w.Meshed() {
				if first := a.App[w.Service.Ports[0].Name].Addr(); first != a.App[port.Name].Addr() {
					return nil, fmt.Errorf("workload %s is attached at %s and %s: without a proxy all its ports have one address", w.Name, first, a.App[port.Name].Addr())
				}
				a.IP, a.Ports[port.Name] = a.App[port.Name].Addr(), a.App[port.Name].Port()
				continue
			}
			at, err := ports.Ask(ctx, w.Service.Listen)
			if err != nil {
				return nil, fmt.Errorf("proxy port %s of workload %s: %w", port.Name, w.Name, err)
			}
			a.Ports[port.Name] = at.Port()
		}
		all[w.Name] = a
	}
	return all, nil
}

// Ports holds the ports that the kernel was asked for, so that it gives none to anybody else, neither to another socket of this project
// nor to a connection that happens to begin meanwhile. It is used by one goroutine.
type Ports struct{ held []held }

// held is a port that nobody else gets.
type held struct {
	at     netip.AddrPort
	closer io.Closer
	// lasting: the port's user may listen while it is held.
	lasting bool
}

// Ask asks for a port on an address of this machine and holds it.
func (p *Ports) Ask(ctx context.Context, ip netip.Addr) (netip.AddrPort, error) {
	h, err := hold(ctx, ip)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for a free port on %s: %w", ip, err)
	}
	p.held = append(p.held, h)
	return h.at, nil
}

// Settle lets the ports' users listen: where a held port can't be shared, it is released.
func (p *Ports) Settle() error {
	return p.release(func(h held) bool { return !h.lasting })
}

// Release releases one port, for a user that may not share it.
func (p *Ports) Release(at netip.AddrPort) error {
	return p.release(func(h held) bool { return h.at == at })
}

// Close releases all ports.
func (p *Ports) Close() error {
	return p.release(func(held) bool { return true })
}

func (p *Ports) release(which func(held) bool) error {
	var errs error
	p.held = slices.DeleteFunc(p.held, func(h held) bool {
		if !which(h) {
			return false
		}
		errs = errors.Join(errs, h.closer.Close())
		return true
	})
	return errs
}
