package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/wire"
)

// ProxyConfig is a proxy's configuration in rows, as `proxy-config` prints it:
// read from the admin port of tulle or of Envoy.
type ProxyConfig struct {
	Listeners []ListenerRow `json:"listeners"`
	Routes    []RouteRow    `json:"routes"`
	Clusters  []ClusterRow  `json:"clusters"`
	Endpoints []EndpointRow `json:"endpoints"`
	Secrets   []SecretRow   `json:"secrets"`
}

// ListenerRow is one filter chain of a listener.
type ListenerRow struct {
	Listener    string `json:"listener"`
	Address     string `json:"address"`
	Port        uint32 `json:"port"`
	Match       string `json:"match"`
	Destination string `json:"destination"`
}

// RouteRow is one route.
type RouteRow struct {
	RouteConfig string `json:"routeConfig"`
	VirtualHost string `json:"virtualHost"`
	Domains     string `json:"domains"`
	Match       string `json:"match"`
	Destination string `json:"destination"`
	Origin      string `json:"origin"`
}

// ClusterRow is one cluster, its Istio name taken apart.
type ClusterRow struct {
	Name      string `json:"name"`
	Host      string `json:"host"`
	Port      int    `json:"port"`
	Subset    string `json:"subset"`
	Direction string `json:"direction"`
	Type      string `json:"type"`
	Origin    string `json:"origin"`
}

// EndpointRow is one endpoint.
type EndpointRow struct {
	Cluster  string `json:"cluster"`
	Address  string `json:"address"`
	Health   string `json:"health"`
	Weight   uint32 `json:"weight"`
	Locality string `json:"locality"`
}

// SecretRow is one secret.
type SecretRow struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Updated string `json:"updated"`
}

// FetchProxyConfig reads a proxy's configuration from its admin port.
func FetchProxyConfig(ctx context.Context, admin string) (*ProxyConfig, error) {
	var raw json.RawMessage
	if err := Fetch(ctx, admin, "/config_dump?include_eds", &raw); err != nil {
		return nil, err
	}
	return parseDump(raw)
}

// parseDump reads a config dump. Unknown fields are skipped: a newer Envoy may
// have some.
func parseDump(raw []byte) (*ProxyConfig, error) {
	var dump adminv3.ConfigDump
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, &dump); err != nil {
		return nil, fmt.Errorf("config dump: %w", err)
	}
	out := &ProxyConfig{Listeners: []ListenerRow{}, Routes: []RouteRow{}, Clusters: []ClusterRow{}, Endpoints: []EndpointRow{}, Secrets: []SecretRow{}}
	for _, section := range dump.GetConfigs() {
		m, err := section.UnmarshalNew()
		if err != nil {
			return nil, fmt.Errorf("config dump: %w", err)
		}
		if err := out.add(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *ProxyConfig) add(section proto.Message) error {
	var err error
	each := func(body *anypb.Any, into proto.Message, row func()) {
		if body == nil || err != nil {
			return
		}
		if err = body.UnmarshalTo(into); err == nil {
			row()
		}
	}
	switch s := section.(type) {
	case *adminv3.ListenersConfigDump:
		for _, l := range s.GetDynamicListeners() {
			var m listenerv3.Listener
			each(l.GetActiveState().GetListener(), &m, func() { p.listener(&m) })
		}
		for _, l := range s.GetStaticListeners() {
			var m listenerv3.Listener
			each(l.GetListener(), &m, func() { p.listener(&m) })
		}
	case *adminv3.RoutesConfigDump:
		for _, r := range s.GetDynamicRouteConfigs() {
			var m routev3.RouteConfiguration
			each(r.GetRouteConfig(), &m, func() { p.routes(&m) })
		}
		for _, r := range s.GetStaticRouteConfigs() {
			var m routev3.RouteConfiguration
			each(r.GetRouteConfig(), &m, func() { p.routes(&m) })
		}
	case *adminv3.ClustersConfigDump:
		for _, c := range s.GetDynamicActiveClusters() {
			var m clusterv3.Cluster
			each(c.GetCluster(), &m, func() { p.cluster(&m) })
		}
		for _, c := range s.GetStaticClusters() {
			var m clusterv3.Cluster
			each(c.GetCluster(), &m, func() { p.cluster(&m) })
		}
	case *adminv3.EndpointsConfigDump:
		for _, e := range s.GetDynamicEndpointConfigs() {
			var m endpointv3.ClusterLoadAssignment
			each(e.GetEndpointConfig(), &m, func() { p.endpoints(&m) })
		}
	case *adminv3.SecretsConfigDump:
		for _, c := range s.GetDynamicActiveSecrets() {
			p.Secrets = append(p.Secrets, SecretRow{Name: c.GetName(), Version: c.GetVersionInfo(), Updated: c.GetLastUpdated().AsTime().Format("2006-01-02T15:04:05Z")})
		}
	}
	return err
}

func (p *ProxyConfig) listener(l *listenerv3.Listener) {
	a := l.GetAddress().GetSocketAddress()
	chains := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(chains, d)
	}
	for _, c := range chains {
		p.Listeners = append(p.Listeners, ListenerRow{Listener: l.GetName(), Address: a.GetAddress(), Port: a.GetPortValue(),
			Match: chainMatch(c.GetFilterChainMatch()), Destination: chainDestination(c)})
	}
}

func chainMatch(m *listenerv3.FilterChainMatch) string {
	var parts []string
	if t := m.GetTransportProtocol(); t != "" {
		parts = append(parts, "Trans: "+t)
	}
	if a := m.GetApplicationProtocols(); len(a) > 0 {
		parts = append(parts, "App: "+strings.Join(a, ","))
	}
	if s := m.GetServerNames(); len(s) > 0 {
		parts = append(parts, "SNI: "+strings.Join(s, ","))
	}
	if d := m.GetDestinationPort(); d != nil {
		parts = append(parts, "Port: "+strconv.Itoa(int(d.GetValue())))
	}
	for _, r := range m.GetPrefixRanges() {
		parts = append(parts, fmt.Sprintf("Addr: %s/%d", r.GetAddressPrefix(), r.GetPrefixLen().GetValue()))
	}
	if len(parts) == 0 {
		return "ALL"
	}
	return strings.Join(parts, "; ")
}

func chainDestination(c *listenerv3.FilterChain) string {
	for _, f := range c.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue
		}
		switch x := m.(type) {
		case *hcmv3.HttpConnectionManager:
			if r := x.GetRds(); r != nil {
				return "Route: " + r.GetRouteConfigName()
			}
			return "Inline Route: " + x.GetRouteConfig().GetName()
		case *tcpv3.TcpProxy:
			if w := x.GetWeightedClusters(); w != nil {
				var parts []string
				for _, c := range w.GetClusters() {
					parts = append(parts, fmt.Sprintf("%s (%d)", c.GetName(), c.GetWeight()))
				}
				return "Cluster: " + strings.Join(parts, ", ")
			}
			return "Cluster: " + x.GetCluster()
		}
	}
	return "-"
}

func (p *ProxyConfig) routes(r *routev3.RouteConfiguration) {
	for _, h := range r.GetVirtualHosts() {
		for _, route := range h.GetRoutes() {
			p.Routes = append(p.Routes, RouteRow{RouteConfig: r.GetName(), VirtualHost: h.GetName(), Domains: shortDomains(h.GetDomains()),
				Match: routeMatch(route.GetMatch()), Destination: routeDestination(route), Origin: origin(route.GetMetadata())})
		}
	}
}

// shortDomains names the first domains; a mesh host has a dozen spellings.
func shortDomains(d []string) string {
	const shown = 3
	if len(d) <= shown {
		return strings.Join(d, ", ")
	}
	return strings.Join(d[:shown], ", ") + fmt.Sprintf(" + %d more", len(d)-shown)
}

func routeMatch(m *routev3.RouteMatch) string {
	path := ""
	switch {
	case m.GetPath() != "":
		path = m.GetPath()
	case m.GetPathSeparatedPrefix() != "":
		path = m.GetPathSeparatedPrefix() + "[/*]"
	case m.GetSafeRegex() != nil:
		path = "regex " + m.GetSafeRegex().GetRegex()
	case m.GetConnectMatcher() != nil:
		path = "CONNECT"
	default:
		path = m.GetPrefix() + "*"
	}
	for _, h := range m.GetHeaders() {
		path += " " + h.GetName()
		if s := h.GetStringMatch(); s != nil {
			path += "=" + s.GetExact() + s.GetPrefix() + s.GetSafeRegex().GetRegex()
		}
	}
	for _, q := range m.GetQueryParameters() {
		path += " ?" + q.GetName() + "=" + q.GetStringMatch().GetExact()
	}
	return path
}

func routeDestination(r *routev3.Route) string {
	switch a := r.GetAction().(type) {
	case *routev3.Route_Route:
		if w := a.Route.GetWeightedClusters(); w != nil {
			var parts []string
			for _, c := range w.GetClusters() {
				parts = append(parts, fmt.Sprintf("%s (%d)", c.GetName(), c.GetWeight().GetValue()))
			}
			return strings.Join(parts, ", ")
		}
		return a.Route.GetCluster()
	case *routev3.Route_Redirect:
		return "redirect " + a.Redirect.GetHostRedirect() + a.Redirect.GetPathRedirect()
	case *routev3.Route_DirectResponse:
		return "answer " + strconv.Itoa(int(a.DirectResponse.GetStatus()))
	}
	return "-"
}

func origin(m *corev3.Metadata) string {
	return m.GetFilterMetadata()[wire.MetadataKey].GetFields()[wire.OriginField].GetStringValue()
}

func (p *ProxyConfig) cluster(c *clusterv3.Cluster) {
	row := ClusterRow{Name: c.GetName(), Type: c.GetType().String(), Origin: origin(c.GetMetadata())}
	if d, port, subset, host, ok := wire.ParseClusterName(c.GetName()); ok {
		row.Direction, row.Port, row.Subset, row.Host = string(d), port, subset, host
	}
	p.Clusters = append(p.Clusters, row)
	if c.GetLoadAssignment() != nil {
		a := proto.Clone(c.GetLoadAssignment()).(*endpointv3.ClusterLoadAssignment)
		a.ClusterName = c.GetName()
		p.endpoints(a)
	}
}

func (p *ProxyConfig) endpoints(a *endpointv3.ClusterLoadAssignment) {
	for _, group := range a.GetEndpoints() {
		l := group.GetLocality()
		locality := strings.Trim(l.GetRegion()+"/"+l.GetZone()+"/"+l.GetSubZone(), "/")
		for _, e := range group.GetLbEndpoints() {
			health := e.GetHealthStatus().String()
			if e.GetHealthStatus() == corev3.HealthStatus_UNKNOWN {
				health = "HEALTHY"
			}
			p.Endpoints = append(p.Endpoints, EndpointRow{Cluster: a.GetClusterName(), Address: addressText(e.GetEndpoint().GetAddress()), Health: health,
				Weight: e.GetLoadBalancingWeight().GetValue(), Locality: locality})
		}
	}
}

func addressText(a *corev3.Address) string {
	if p := a.GetPipe(); p != nil {
		return p.GetPath()
	}
	s := a.GetSocketAddress()
	return net.JoinHostPort(s.GetAddress(), strconv.Itoa(int(s.GetPortValue())))
}
