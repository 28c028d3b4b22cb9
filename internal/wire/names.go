package wire

import (
	"strconv"
	"strings"
)

// Names that Istio gives to things which no object of the user names
// (Istio, "Debugging Envoy and Istiod"; istioctl and Kiali read them).
const (
	// PassthroughCluster forwards to the original destination address.
	PassthroughCluster = "PassthroughCluster"
	// BlackHoleCluster has no endpoints: traffic to it is refused.
	BlackHoleCluster = "BlackHoleCluster"
	// InboundPassthroughCluster forwards inbound traffic of unknown ports to
	// the workload.
	InboundPassthroughCluster = "InboundPassthroughCluster"
	// VirtualOutbound is the listener that takes redirected outbound traffic.
	VirtualOutbound = "virtualOutbound"
	// VirtualInbound is the listener that takes redirected inbound traffic.
	VirtualInbound = "virtualInbound"
	// AllowAny is the virtual host for hosts nobody registered, forwarded.
	AllowAny = "allow_any"
	// BlockAll is the virtual host for hosts nobody registered, refused.
	BlockAll = "block_all"
)

// Direction is the traffic direction in an Istio cluster name.
type Direction string

// The directions of Istio's cluster names.
const (
	Outbound Direction = "outbound"
	Inbound  Direction = "inbound"
)

// ClusterName is Istio's four-part cluster name, direction|port|subset|host,
// e.g. "outbound|80|v1|reviews.default.svc.cluster.local" or "inbound|80||".
func ClusterName(d Direction, port int, subset, host string) string {
	return string(d) + "|" + strconv.Itoa(port) + "|" + subset + "|" + host
}

// ParseClusterName splits an Istio cluster name; ok is false for any other
// name, such as PassthroughCluster or a name of a foreign server.
func ParseClusterName(name string) (d Direction, port int, subset, host string, ok bool) {
	parts := strings.Split(name, "|")
	if len(parts) != 4 {
		return "", 0, "", "", false
	}
	d = Direction(parts[0])
	if d != Outbound && d != Inbound {
		return "", 0, "", "", false
	}
	port, err := strconv.Atoi(parts[1])
	if err != nil || port < 0 || port > 65535 {
		return "", 0, "", "", false
	}
	return d, port, parts[2], parts[3], true
}

// SNI is the server name that Istio's sidecars put into mutual TLS for a
// cluster: "outbound_.80_.v1_.reviews.default.svc.cluster.local".
func SNI(port int, subset, host string) string {
	return string(Outbound) + "_." + strconv.Itoa(port) + "_." + subset + "_." + host
}

// VirtualHostResourceName is the VHDS resource name, route configuration and
// host joined as Envoy's VHDS documentation has it: "routeconfig/host".
func VirtualHostResourceName(routeConfig, host string) string { return routeConfig + "/" + host }
