package compile

import (
	"fmt"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
)

// addressing says what a cluster's endpoints may have as an address.
type addressing uint8

const (
	// literalAddress: IP addresses and Unix sockets.
	literalAddress addressing = iota
	// nameAddress: host names, which DNS resolves.
	nameAddress
)

// priorityMax is the API's own bound (LocalityLbEndpoints.priority).
const priorityMax = 128

func (v *conv) assignment(m *endpointv3.ClusterLoadAssignment, path string, kind addressing) *cluster.Assignment {
	a := &cluster.Assignment{Name: m.GetClusterName(), OverprovisioningFactor: m.GetPolicy().GetOverprovisioningFactor().GetValue()}
	for i, l := range m.GetEndpoints() {
		at := fmt.Sprintf("%s[%d]", join(path, "endpoints"), i)
		if l.GetPriority() > priorityMax {
			v.report.invalid(join(at, "priority"), fmt.Sprintf("%d is above %d", l.GetPriority(), priorityMax))
		}
		loc := cluster.Locality{
			Region: l.GetLocality().GetRegion(), Zone: l.GetLocality().GetZone(), SubZone: l.GetLocality().GetSubZone(),
			Priority: l.GetPriority(), Weight: l.GetLoadBalancingWeight().GetValue(),
			Endpoints: make([]cluster.Endpoint, 0, len(l.GetLbEndpoints())),
		}
		for j, e := range l.GetLbEndpoints() {
			loc.Endpoints = append(loc.Endpoints, v.endpoint(e, fmt.Sprintf("%s.lb_endpoints[%d]", at, j), kind))
		}
		a.Localities = append(a.Localities, loc)
	}
	return a
}

func (v *conv) endpoint(m *endpointv3.LbEndpoint, path string, kind addressing) cluster.Endpoint {
	e := cluster.Endpoint{Weight: 1, Hostname: m.GetEndpoint().GetHostname()}
	if w := m.GetLoadBalancingWeight(); w != nil {
		e.Weight = w.GetValue()
		if e.Weight == 0 {
			v.report.invalid(join(path, "load_balancing_weight"), "must be at least 1")
		}
	}
	v.endpointAddress(&e, m.GetEndpoint().GetAddress(), join(path, "endpoint.address"), kind)
	for i, a := range m.GetEndpoint().GetAdditionalAddresses() {
		e.Extra = append(e.Extra, v.socket(a.GetAddress(), fmt.Sprintf("%s.endpoint.additional_addresses[%d].address", path, i)))
	}
	switch m.GetHealthStatus() {
	case corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY:
		e.Health = cluster.Healthy
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT:
		e.Health = cluster.Unhealthy
	case corev3.HealthStatus_DRAINING:
		e.Health = cluster.Draining
	case corev3.HealthStatus_DEGRADED:
		e.Health = cluster.Degraded
	default:
		v.report.invalid(join(path, "health_status"), "no such status")
	}
	meta := m.GetMetadata().GetFilterMetadata()
	e.Workload = meta["istio"].GetFields()["workload"].GetStringValue()
	for key, value := range meta["envoy.transport_socket_match"].GetFields() {
		if e.TransportMatch == nil {
			e.TransportMatch = map[string]string{}
		}
		e.TransportMatch[key] = value.GetStringValue()
	}
	return e
}

func (v *conv) endpointAddress(e *cluster.Endpoint, a *corev3.Address, path string, kind addressing) {
	switch s := a.GetAddress().(type) {
	case *corev3.Address_Pipe:
		e.Pipe = s.Pipe.GetPath()
	case *corev3.Address_SocketAddress:
		at := join(path, "socket_address")
		if kind == nameAddress {
			if s.SocketAddress.GetAddress() == "" {
				v.report.invalid(join(at, "address"), "a host name is needed")
			}
			e.Host, e.Port = s.SocketAddress.GetAddress(), v.port(s.SocketAddress.GetPortValue(), join(at, "port_value"))
			if ip, err := netip.ParseAddr(e.Host); err == nil {
				e.Addr = netip.AddrPortFrom(ip.Unmap(), e.Port)
			}
			return
		}
		e.Addr = v.socketAddress(s.SocketAddress, at)
	default:
		v.report.refuse(path, "this kind of address is not supported")
	}
}
