package app

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strconv"

	"github.com/tullemesh/tulle/internal/agent/capture"
	"github.com/tullemesh/tulle/internal/app/project"
	"github.com/tullemesh/tulle/internal/wire"
)

// plan gives the control plane its ports, and every proxy its ports and its
// node. They stay the same when a process starts again.
func (m *Mesh) plan(ctx context.Context) error {
	for _, at := range []*netip.AddrPort{&m.xds, &m.monitoring} {
		var err error
		if *at, err = m.ports.Ask(ctx, loopback()); err != nil {
			return err
		}
	}
	for _, w := range m.Project.Workloads() {
		if !w.Meshed() {
			continue
		}
		mw := &meshWorkload{name: w.Name, namespace: w.Service.Namespace, account: w.Service.ServiceAccount, captured: isCaptured(w)}
		labels := map[string]any{"app": w.Service.Name, "version": w.Version.Name}
		for k, v := range w.Version.Labels {
			labels[k] = v
		}
		mw.node = wire.NodeID(wire.Sidecar, m.addresses[w.Name].IP, w.Name, w.Service.Namespace, w.Service.Namespace+".svc."+clusterDomain)
		mw.metadata = map[string]any{"NAMESPACE": w.Service.Namespace, "LABELS": labels, "SERVICE_ACCOUNT": w.Service.ServiceAccount, "WORKLOAD_NAME": w.Service.Name + "-" + w.Version.Name,
			"CLUSTER_ID": "Kubernetes"}
		if mw.captured {
			mw.metadata["INTERCEPTION_MODE"], mw.metadata["DNS_CAPTURE"] = "REDIRECT", "true"
		} else if err := m.planDoors(ctx, w, mw); err != nil {
			return err
		}
		m.workloads = append(m.workloads, mw)
	}
	if err := m.planGateway(ctx); err != nil {
		return err
	}
	for _, w := range m.workloads {
		var err error
		if w.admin, err = m.ports.Ask(ctx, loopback()); err != nil {
			return err
		}
	}
	return m.connect(ctx)
}

// planDoors gives a workload that is not intercepted the ports of loopback at
// which its application calls the proxy: one for HTTP_PROXY, one for each port
// of a service.
func (m *Mesh) planDoors(ctx context.Context, w project.Workload, mw *meshWorkload) error {
	ask := func() (netip.AddrPort, error) {
		at, err := m.ports.Ask(ctx, loopback())
		mw.doors = append(mw.doors, at)
		return at, err
	}
	var err error
	if mw.httpProxy, err = ask(); err != nil {
		return err
	}
	egress, app := map[string]any{}, map[string]any{}
	for _, s := range m.Project.Services {
		if s.External {
			continue
		}
		for i, port := range s.Ports {
			at, err := ask()
			if err != nil {
				return err
			}
			egress[fmt.Sprintf("%s.%s.svc.%s:%d", s.Name, s.Namespace, clusterDomain, port.Number)] = at.String()
			if i == 0 {
				up := capture.Upstream{Service: s.Name, Address: at}
				if port.Protocol == "http" || port.Protocol == "http2" || port.Protocol == "grpc" {
					up.Scheme = "http"
				}
				mw.upstreams = append(mw.upstreams, up)
			}
		}
	}
	address := m.addresses[w.Name]
	for name, published := range address.Ports {
		at, err := m.appAddress(ctx, address.App[name])
		if err != nil {
			return err
		}
		app[strconv.Itoa(int(published))] = at.String()
	}
	maps.Copy(mw.metadata, map[string]any{"INTERCEPTION_MODE": "NONE", "HTTP_PROXY_PORT": strconv.Itoa(int(mw.httpProxy.Port())), "TULLE_APP_PORTS": app, "TULLE_EGRESS": egress})
	return nil
}

func (m *Mesh) planGateway(ctx context.Context) error {
	if len(m.Project.GatewayPorts) == 0 {
		return nil
	}
	binds := map[string]any{}
	for i, port := range m.Project.GatewayPorts {
		at := netip.AddrPortFrom(loopback(), port)
		if i == 0 && m.options.GatewayPort > 0 {
			at = netip.AddrPortFrom(loopback(), uint16(m.options.GatewayPort))
		}
		if m.options.GatewayPort < 0 {
			free, err := m.ports.Ask(ctx, loopback())
			if err != nil {
				return err
			}
			at = free
		} else if err := mustBeFree(ctx, at); err != nil {
			return err
		}
		binds[strconv.Itoa(int(port))] = at.String()
		m.gateways = append(m.gateways, at)
	}
	m.workloads = append(m.workloads, &meshWorkload{name: gatewayName, namespace: gatewayNamespace, account: gatewayName, doors: m.gateways,
		node: wire.NodeID(wire.Router, m.gatewayAddress(), gatewayName, gatewayNamespace, gatewayNamespace+".svc."+clusterDomain),
		metadata: map[string]any{"NAMESPACE": gatewayNamespace, "LABELS": gatewayLabels(), "SERVICE_ACCOUNT": gatewayName, "WORKLOAD_NAME": gatewayName,
			"CLUSTER_ID": "Kubernetes", "TULLE_APP_PORTS": binds}})
	return nil
}

func gatewayLabels() map[string]any {
	return map[string]any{"app": gatewayName, "istio": "ingressgateway"}
}

// gatewayAddress is the gateway's address for proxies.
func (m *Mesh) gatewayAddress() netip.Addr {
	if m.isolation == nil {
		return loopback()
	}
	return m.isolation.spaces[gatewayName].Addr()
}

// gatewayEntry is the object by which the control plane knows the gateway.
func gatewayEntry(address netip.Addr) string {
	return fmt.Sprintf(`---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: istio-ingressgateway
  namespace: istio-system
  labels: {app: istio-ingressgateway, istio: ingressgateway}
spec:
  address: %s
  labels: {app: istio-ingressgateway, istio: ingressgateway}
  serviceAccount: istio-ingressgateway
`, address)
}

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// mustBeFree tells who can't listen where, before anything starts.
func mustBeFree(ctx context.Context, at netip.AddrPort) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("the gateway cannot listen on %s: %w\n  use --gateway-port N, or set gateway.ports in %s", at, err, project.FileName)
	}
	return l.Close()
}
