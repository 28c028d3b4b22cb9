package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// clusters answers in Envoy's text form, or as envoy.admin.v3.Clusters with
// ?format=json.
func (h *handler) clusters(w http.ResponseWriter, r *http.Request) error {
	all := h.p.Clusters()
	if r.URL.Query().Get("format") == "json" {
		return writeProto(w, clustersProto(all))
	}
	return writeClusters(w, all)
}

func writeClusters(w io.Writer, all []Cluster) error {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "%s::observability_name::%s\n", c.Name, c.Name)
		for _, priority := range []string{"default", "high"} {
			for _, l := range c.Limits.list() {
				fmt.Fprintf(&b, "%s::%s_priority::%s::%d\n", c.Name, priority, l.name, l.value)
			}
		}
		fmt.Fprintf(&b, "%s::added_via_api::%t\n", c.Name, c.AddedBy != "static")
		if c.Assignment != "" {
			fmt.Fprintf(&b, "%s::eds_service_name::%s\n", c.Name, c.Assignment)
		}
		for _, e := range c.Endpoints {
			for _, s := range e.stats() {
				fmt.Fprintf(&b, "%s::%s::%s::%d\n", c.Name, e.Address, s.name, s.value)
			}
			for _, f := range []struct {
				name  string
				value any
			}{
				{"hostname", e.Hostname}, {"health_flags", healthFlags(e.Health)}, {"weight", e.Weight}, {"region", e.Region}, {"zone", e.Zone}, {"sub_zone", e.SubZone},
				{"canary", false}, {"priority", e.Priority}, {"success_rate", -1}, {"local_origin_success_rate", -1}, // none is computed
			} {
				fmt.Fprintf(&b, "%s::%s::%s::%v\n", c.Name, e.Address, f.name, f.value)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type stat struct {
	name  string
	value uint64
	gauge bool
}

// stats are Envoy's per-host statistics, in Envoy's order.
func (e Endpoint) stats() []stat {
	return []stat{
		{"cx_active", e.ActiveConnections, true},
		{"cx_connect_fail", e.ConnectFails, false},
		{"cx_total", e.Connections, false},
		{"rq_active", e.ActiveRequests, true},
		{"rq_error", e.Errors, false},
		{"rq_success", e.Successes, false},
		{"rq_timeout", e.Timeouts, false},
		{"rq_total", e.Requests, false},
	}
}

// list is in Envoy's words and order.
func (l Limits) list() []stat {
	return []stat{
		{"max_connections", uint64(l.Connections), true}, {"max_pending_requests", uint64(l.Pending), true},
		{"max_requests", uint64(l.Requests), true}, {"max_retries", uint64(l.Retries), true},
	}
}

func (l Limits) proto() *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: wrapperspb.UInt32(l.Connections), MaxPendingRequests: wrapperspb.UInt32(l.Pending),
		MaxRequests: wrapperspb.UInt32(l.Requests), MaxRetries: wrapperspb.UInt32(l.Retries),
	}}}
}

func healthFlags(health string) string {
	switch health {
	case "", "HEALTHY":
		return "healthy"
	case "DEGRADED":
		return "/degraded_eds_health"
	case "DRAINING":
		return "/eds_status_draining"
	}
	return "/failed_eds_health"
}

func clustersProto(all []Cluster) *adminv3.Clusters {
	out := &adminv3.Clusters{}
	for _, c := range all {
		cs := &adminv3.ClusterStatus{Name: c.Name, AddedViaApi: c.AddedBy != "static", ObservabilityName: c.Name,
			CircuitBreakers: c.Limits.proto(), EdsServiceName: c.Assignment}
		for _, e := range c.Endpoints {
			host := &adminv3.HostStatus{Address: addressProto(e.Address), Weight: e.Weight, Hostname: e.Hostname, Priority: e.Priority,
				Locality:     &corev3.Locality{Region: e.Region, Zone: e.Zone, SubZone: e.SubZone},
				HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: corev3.HealthStatus(corev3.HealthStatus_value[e.Health])}}
			for _, s := range e.stats() {
				m := &adminv3.SimpleMetric{Name: s.name, Value: s.value}
				if s.gauge {
					m.Type = adminv3.SimpleMetric_GAUGE
				}
				host.Stats = append(host.Stats, m)
			}
			cs.HostStatuses = append(cs.HostStatuses, host)
		}
		out.ClusterStatuses = append(out.ClusterStatuses, cs)
	}
	return out
}

func addressProto(s string) *corev3.Address {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: s}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())}}}}
}
