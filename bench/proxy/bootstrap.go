package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
)

type object = map[string]any

// shape is what the proxies of a scenario are set up for.
type shape struct {
	// sidecars is 1, or 2 with mutual TLS between them.
	sidecars int
	// tls: the client speaks mutual TLS to the only sidecar.
	tls bool
	// http2 is the protocol to the next hop; what clients speak is detected.
	http2 bool
	// tcp: bytes are relayed.
	tcp bool
	// big: 10,000 routes and 50,000 endpoints.
	big bool
}

// Sizes of the big configuration.
const (
	bigHosts             = 1000
	bigRoutesPerHost     = 10
	bigClusters          = 5000
	bigEndpointsPer      = 10
	bigHostsCalled       = 64
	bigClustersPerHost   = bigClusters / bigHosts
	bigUnusedPort        = 8080
	alpnHTTP1, alpnHTTP2 = "http/1.1", "h2"
)

func bigHost(i int) string { return "svc-" + strconv.Itoa(i) + ".default.svc.cluster.local" }

// hosts are the names that the load calls.
func (s shape) hosts() []string {
	if !s.big {
		return []string{"svc.default.svc.cluster.local"}
	}
	var names []string
	for i := range bigHostsCalled {
		names = append(names, bigHost(i*bigHosts/bigHostsCalled))
	}
	return names
}

// backends is how many addresses the load answers at.
func (s shape) backends() int {
	if s.big {
		return bigEndpointsPer
	}
	return 1
}

// bootstraps are the Envoy bootstraps of one contender, that of the front
// sidecar last, as the behind one must listen before.
func (s shape) bootstraps(front netip.AddrPort, admin, backends []netip.AddrPort, ca *authority) ([]object, error) {
	alpn := alpnHTTP1
	if s.http2 {
		alpn = alpnHTTP2
	}
	if s.sidecars == 2 {
		middle, err := freePort()
		if err != nil {
			return nil, err
		}
		return []object{
			s.bootstrap(middle, admin[1], backends, ca.downstream("b", alpn), nil),
			s.bootstrap(front, admin[0], []netip.AddrPort{middle}, nil, ca.upstream("a", alpn)),
		}, nil
	}
	var down object
	if s.tls {
		down = ca.downstream("b", alpn)
	}
	return []object{s.bootstrap(front, admin[0], backends, down, nil)}, nil
}

func (s shape) bootstrap(listen, admin netip.AddrPort, upstreams []netip.AddrPort, down, up object) object {
	filter := object{"name": "envoy.filters.network.http_connection_manager", "typed_config": s.manager()}
	if s.tcp {
		filter = object{"name": "envoy.filters.network.tcp_proxy", "typed_config": object{
			"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": "be"}}
	}
	chain := object{"filters": []object{filter}}
	if down != nil {
		chain["transport_socket"] = down
	}
	clusters := []object{s.cluster("be", upstreams, up)}
	if s.big {
		clusters = s.bigClusters(upstreams)
	}
	return object{
		"admin": object{"address": address(admin)},
		"static_resources": object{
			"listeners": []object{{"name": "front", "address": address(listen), "filter_chains": []object{chain}}},
			"clusters":  clusters,
		},
	}
}

func address(a netip.AddrPort) object {
	return object{"socket_address": object{"address": a.Addr().String(), "port_value": a.Port()}}
}

func (s shape) cluster(name string, endpoints []netip.AddrPort, tls object) object {
	var all []object
	for _, e := range endpoints {
		all = append(all, object{"endpoint": object{"address": address(e)}})
	}
	c := object{"name": name, "type": "STATIC", "connect_timeout": "5s",
		"load_assignment":  object{"cluster_name": name, "endpoints": []object{{"lb_endpoints": all}}},
		"circuit_breakers": object{"thresholds": []object{{"max_connections": 100000, "max_requests": 100000, "max_pending_requests": 100000}}}}
	if tls != nil {
		c["transport_socket"] = tls
	}
	if s.http2 {
		c["typed_extension_protocol_options"] = object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{}}}}
	}
	return c
}

// bigClusters: the last cluster of each host is the load's, the others have
// addresses of their own at which nobody listens and that nothing dials.
func (s shape) bigClusters(backends []netip.AddrPort) []object {
	var all []object
	for i := range bigClusters {
		endpoints := backends
		if i%bigClustersPerHost != bigClustersPerHost-1 {
			endpoints = nil
			for j := range bigEndpointsPer {
				n := i*bigEndpointsPer + j
				endpoints = append(endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(64 + n>>16), byte(n >> 8), byte(n)}), bigUnusedPort))
			}
		}
		all = append(all, s.cluster(bigCluster(i), endpoints, nil))
	}
	return all
}

func bigCluster(i int) string { return "cluster-" + strconv.Itoa(i) }

func route(prefix, header, value string, action object) object {
	m := object{"prefix": prefix}
	if header != "" {
		m["headers"] = []object{{"name": header, "string_match": object{"exact": value}}}
	}
	action["match"] = m
	return action
}

func refuse() object { return object{"direct_response": object{"status": 404}} }

func forward(cluster string) object { return object{"route": object{"cluster": cluster}} }

func (s shape) virtualHosts() []object {
	if !s.big {
		return []object{{"name": "v", "domains": []string{"*"}, "routes": []object{
			route("/admin/", "x-admin", "1", refuse()),
			route("/static/", "", "", refuse()),
			route("/api/", "x-tenant", "green", refuse()),
			route("/api/", "x-tenant", "blue", forward("be")),
			route("/bulk/", "", "", forward("be")),
		}}}
	}
	var all []object
	for i := range bigHosts {
		var routes []object
		for r := range bigRoutesPerHost - 1 {
			routes = append(routes, route(fmt.Sprintf("/api/v%d/", r+2), "x-tenant", "green", forward(bigCluster(i*bigClustersPerHost+r%(bigClustersPerHost-1)))))
		}
		routes = append(routes, route("/api/", "x-tenant", "blue", forward(bigCluster(i*bigClustersPerHost+bigClustersPerHost-1))))
		all = append(all, object{"name": bigHost(i), "domains": []string{bigHost(i)}, "routes": routes})
	}
	return all
}

// manager is a connection manager with five routes (prefix and header) and an
// RBAC filter with two policies: what a sidecar evaluates at the least.
func (s shape) manager() object {
	anyone := []object{{"any": true}}
	method := func(m string) object {
		return object{"header": object{"name": ":method", "string_match": object{"exact": m}}}
	}
	path := func(p string) object { return object{"url_path": object{"path": object{"prefix": p}}} }
	return object{
		"@type":        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix":  "front",
		"route_config": object{"name": "front", "virtual_hosts": s.virtualHosts()},
		"http_filters": []object{
			{"name": "envoy.filters.http.rbac", "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
				"rules": object{"action": "ALLOW", "policies": object{
					"api": object{"principals": anyone, "permissions": []object{{"and_rules": object{"rules": []object{
						path("/api/"), {"or_rules": object{"rules": []object{method("GET"), method("POST")}}}}}}}},
					"bulk": object{"principals": anyone, "permissions": []object{path("/bulk/")}},
				}}}},
			{"name": "envoy.filters.http.router", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
		},
	}
}

// encode is the bootstrap as a file's text.
func encode(bootstrap object) (string, error) {
	data, err := json.Marshal(bootstrap)
	return string(data), err
}
