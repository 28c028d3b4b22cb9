package plan

import (
	"strconv"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// EgressPort is the port of a service that an address of the loopback stands
// for (the node's TULLE_EGRESS).
type EgressPort struct {
	Service *registry.Service
	Port    registry.Port
	Routes  string // the route configuration of requests
	HTTP    bool   // requests can be routed
}

// EgressPortOf is what a "host:port" of the node means; ok is false where it
// means nothing to the proxy.
func EgressPortOf(r *view.Reader, hostPort string) (port EgressPort, ok bool) {
	host, number, one := SplitRouteName(hostPort)
	if !one {
		return EgressPort{}, false
	}
	// What the workload's Sidecar leaves out has no routes, and gets no listener.
	scope := r.Scope().EgressFor(number)
	if scope == nil {
		return EgressPort{}, false
	}
	svc := scope.ByHost[host]
	if svc == nil {
		return EgressPort{}, false
	}
	p, ok := PortOf(svc, number)
	if !ok || p.Protocol == registry.UDP {
		return EgressPort{}, false
	}
	return EgressPort{Service: svc, Port: p, Routes: host + ":" + strconv.Itoa(number), HTTP: HTTPOrSniffed(p.Protocol)}, true
}
