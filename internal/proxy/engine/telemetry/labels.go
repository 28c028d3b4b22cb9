package telemetry

import (
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
)

// Workload is who stands at an end of a connection, in the words of Istio's
// metric labels.
type Workload struct {
	Name, Namespace, Cluster string
	// App, Version are the workload's labels; CanonicalService and Revision
	// Istio's canonical ones.
	App, Version, CanonicalService, Revision string
	// Principal is the SPIFFE ID.
	Principal string
}

const unknown = "unknown"

// requestLabels are Istio's, in the order of its documentation
// ("Istio Standard Metrics").
func requestLabels() []string {
	return append(peerLabels(), "request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy")
}

func tcpLabels() []string {
	return append(peerLabels(), "request_protocol", "response_flags", "connection_security_policy")
}

func peerLabels() []string {
	return []string{
		"reporter",
		"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
		"source_principal", "source_app", "source_version", "source_cluster",
		"destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
		"destination_version", "destination_service", "destination_canonical_service", "destination_canonical_revision",
		"destination_service_name", "destination_service_namespace", "destination_cluster",
	}
}

// Labels are what the labels of a request or a connection are made of, by
// identity: what the pointers lead to does not change, so two that are equal
// lead to the same series.
type Labels struct {
	// Source is the client; Destination what the endpoint said of itself, nil:
	// it did not.
	Source, Destination *Peer
	// Cluster is nil where none was chosen, Upstream and Info where no endpoint
	// was.
	Cluster  *cluster.Spec
	Upstream *cluster.Upstream
	Info     *cluster.EndpointInfo
	// Proved is the endpoint's SPIFFE ID.
	Proved string
	// Flags are Envoy's response flags, GRPCStatus is of the closed set that
	// GRPCStatus returns.
	Flags, GRPCStatus string
	Status            int32
	GRPC              bool // the request is one of gRPC
	Inbound           bool // the proxy stands before the service
	Verified          bool // the client proved who it is
}

// To sets what is known of the endpoint.
func (l *Labels) To(u *cluster.Upstream) {
	l.Upstream, l.Cluster, l.Info, l.Proved = u, u.Cluster().Spec(), u.Info(), u.Peer()
}

// seriesKey is everything that labels depend on. All parts are comparable and
// come from closed sets: configuration, peers' identities, statuses.
type seriesKey struct {
	source   Workload
	service  cluster.Service
	workload string
	status   int
	flag     string
	grpc     string
	grpcReq  bool
	mutual   bool
	inbound  bool
	// upstream is the endpoint's SPIFFE ID, of an outbound request.
	upstream string
	// destination is what that endpoint said of itself.
	destination Workload
}

// key is what is known of both ends. Whether they proved who they are is
// known of the downstream for inbound traffic, of the upstream for outbound.
func (l *Labels) key() seriesKey {
	k := seriesKey{
		source: l.Source.Workload, inbound: l.Inbound, mutual: l.Verified,
		status: int(l.Status), flag: l.Flags, grpc: l.GRPCStatus, grpcReq: l.GRPC,
	}
	if l.Cluster != nil {
		k.service = serviceOf(l.Cluster)
	}
	if l.Upstream != nil {
		k.workload = l.Info.Workload
		if !k.inbound {
			k.mutual, k.upstream = l.Upstream.Mutual(), l.Proved
		}
	}
	if l.Destination != nil {
		k.destination = l.Destination.Workload
	}
	return k
}

// serviceOf is the service behind a cluster. What nobody registered has the
// cluster's name, as Istio names it (PassthroughCluster).
func serviceOf(spec *cluster.Spec) cluster.Service {
	if spec.Catchall && spec.Service == (cluster.Service{}) {
		return cluster.Service{Name: spec.Name}
	}
	return spec.Service
}

// GRPCStatus keeps the label within gRPC's codes.
func GRPCStatus(b []byte) string {
	for i := range 17 {
		if s := strconv.Itoa(i); string(b) == s {
			return s
		}
	}
	return unknown
}

func flagOr(flag string) string {
	if flag == "" {
		return "-"
	}
	return flag
}

// security is Istio's connection_security_policy: only the destination knows.
func security(mutual, inbound bool) string {
	switch {
	case !inbound:
		return unknown
	case mutual:
		return "mutual_tls"
	}
	return "none"
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// values are the labels of both ends.
func (m *Meters) values(k *seriesKey) []string {
	source, destination, reporter := m.self, Workload{}, "source"
	if k.inbound {
		source, destination, reporter = k.source, m.self, "destination"
	} else {
		destination = k.destination
		if destination == (Workload{}) {
			destination = endpointWorkload(k.workload, k.service)
		}
		destination.Principal = k.upstream
	}
	if !k.mutual {
		source.Principal, destination.Principal = "", "" // nobody proved any
	}
	return []string{
		reporter,
		orUnknown(source.Name), orUnknown(source.CanonicalService), orUnknown(source.Revision), orUnknown(source.Namespace),
		orUnknown(source.Principal), orUnknown(source.App), orUnknown(source.Version), orUnknown(source.Cluster),
		orUnknown(destination.Name), orUnknown(destination.Namespace), orUnknown(destination.Principal), orUnknown(destination.App),
		orUnknown(destination.Version), orUnknown(k.service.Host), orUnknown(destination.CanonicalService), orUnknown(destination.Revision),
		orUnknown(k.service.Name), orUnknown(k.service.Namespace), orUnknown(destination.Cluster),
	}
}

// endpointWorkload reads Istio's "workload" endpoint metadata:
// "name;namespace;canonical service;revision;cluster".
func endpointWorkload(s string, service cluster.Service) Workload {
	parts := strings.Split(s, ";")
	get := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	w := Workload{Name: get(0), Namespace: get(1), CanonicalService: get(2), Revision: get(3), Cluster: get(4)}
	w.App, w.Version = w.CanonicalService, w.Revision
	if w.Namespace == "" {
		w.Namespace = service.Namespace
	}
	return w
}
