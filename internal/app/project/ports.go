package project

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
// service; all others get ports that the kernel says are free on loopback now. Nothing holds these ports until they are used, so a
// process that finds its port taken must be assigned anew.
func Assign(ctx context.Context, p *Project, inside map[string]netip.Addr) (_ map[string]Address, err error) {
	asked := &asker{}
	defer func() { err = errors.Join(err, asked.close()) }()
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
				number, err := asked.port(ctx, w.Service.Listen)
				if err != nil {
					return nil, fmt.Errorf("port %s of workload %s: %w", port.Name, w.Name, err)
				}
				a.App[port.Name] = netip.AddrPortFrom(w.Service.Listen, number)
			}
			if !w.Meshed() {
				if first := a.App[w.Service.Ports[0].Name].Addr(); first != a.App[port.Name].Addr() {
					return nil, fmt.Errorf("workload %s is attached at %s and %s: without a proxy all its ports have one address", w.Name, first, a.App[port.Name].Addr())
				}
				a.IP, a.Ports[port.Name] = a.App[port.Name].Addr(), a.App[port.Name].Port()
				continue
			}
			if a.Ports[port.Name], err = asked.port(ctx, w.Service.Listen); err != nil {
				return nil, fmt.Errorf("proxy port %s of workload %s: %w", port.Name, w.Name, err)
			}
		}
		all[w.Name] = a
	}
	return all, nil
}

// asker holds the listeners by which the kernel was asked for ports, so that it names none twice.
type asker struct{ held []net.Listener }

func (a *asker) port(ctx context.Context, ip netip.Addr) (uint16, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return 0, fmt.Errorf("ask for a free port on %s: %w", ip, err)
	}
	a.held = append(a.held, ln)
	return ln.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

func (a *asker) close() error {
	var errs error
	for _, ln := range a.held {
		errs = errors.Join(errs, ln.Close())
	}
	return errs
}
