package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
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
		limits := make([]string, 0, len(c.Limits))
		for name := range c.Limits {
			limits = append(limits, name)
		}
		slices.Sort(limits)
		for _, name := range limits {
			fmt.Fprintf(&b, "%s::default_priority::%s::%d\n", c.Name, name, c.Limits[name])
		}
		fmt.Fprintf(&b, "%s::added_via_api::%t\n", c.Name, c.AddedBy != "static")
		for _, e := range c.Endpoints {
			for _, s := range e.stats() {
				fmt.Fprintf(&b, "%s::%s::%s::%d\n", c.Name, e.Address, s.name, s.value)
			}
			fmt.Fprintf(&b, "%s::%s::hostname::%s\n", c.Name, e.Address, e.Hostname)
			fmt.Fprintf(&b, "%s::%s::health_flags::%s\n", c.Name, e.Address, healthFlags(e.Health))
			fmt.Fprintf(&b, "%s::%s::weight::%d\n", c.Name, e.Address, e.Weight)
			fmt.Fprintf(&b, "%s::%s::region::%s\n", c.Name, e.Address, e.Region)
			fmt.Fprintf(&b, "%s::%s::zone::%s\n", c.Name, e.Address, e.Zone)
			fmt.Fprintf(&b, "%s::%s::sub_zone::%s\n", c.Name, e.Address, e.SubZone)
			fmt.Fprintf(&b, "%s::%s::priority::%d\n", c.Name, e.Address, e.Priority)
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
		{"rq_total", e.Requests, false},
	}
}

func healthFlags(health string) string {
	switch health {
	case "", "HEALTHY":
		return "healthy"
	case "DEGRADED":
		return "/eds_health_degraded"
	case "DRAINING":
		return "/eds_status_draining"
	}
	return "/failed_eds_health"
}

func clustersProto(all []Cluster) *adminv3.Clusters {
	out := &adminv3.Clusters{}
	for _, c := range all {
		cs := &adminv3.ClusterStatus{Name: c.Name, AddedViaApi: c.AddedBy != "static", ObservabilityName: c.Name}
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
