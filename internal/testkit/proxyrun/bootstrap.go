package proxyrun

import (
	"maps"
	"net"
	"strconv"
	"strings"
)

// Object is a piece of a bootstrap, in the form of its JSON.
type Object = map[string]any

// Credentials are files of one peer: its certificate chain, its key, and the roots that it checks others by.
type Credentials struct{ Chain, Key, Roots string }

// Listener is a listener of HTTP on a port that the kernel chooses.
type Listener struct {
	Name string
	// TLS: whom the listener is, and it asks clients for certificates when Mutual. ALPN offers HTTP/2 first.
	TLS    *Credentials
	Mutual bool
	// Manager is merged into the connection manager.
	Manager Object
	// Filters come before the router.
	Filters []Object
	// Routes are in the order of their matching; none: all goes to the cluster "be".
	Routes []Object
}

// Cluster is a static cluster.
type Cluster struct {
	Name string
	// To are host:port of its endpoints.
	To []string
	// HTTP2: it gets HTTP/2, by ALPN where there is TLS. Options are merged into http2_protocol_options.
	HTTP2   bool
	Options Object
	TLS     *Credentials
	// More is merged into the cluster.
	More Object
}

const types = "type.googleapis.com/envoy.extensions."

// Forward routes a prefix to a cluster; more is merged into the action.
func Forward(prefix, cluster string, more Object) Object {
	action := Object{"cluster": cluster}
	maps.Copy(action, more)
	return Object{"match": Object{"prefix": prefix}, "route": action}
}

// Bootstrap puts listeners and clusters together. The access log goes to
// standard output, a line for each request: method, path, protocol, status,
// flags, details, bytes received and sent.
func Bootstrap(listeners []Listener, clusters []Cluster) Object {
	var ls, cs []Object
	for i, l := range listeners {
		// Each has an address of its own: listeners are told apart by what they ask for, and all ask for port 0.
		ls = append(ls, l.object("127.0.0."+strconv.Itoa(i+1)+":0"))
	}
	for _, c := range clusters {
		cs = append(cs, c.object())
	}
	return Object{"admin": Object{"address": address("127.0.0.1:0")}, "static_resources": Object{"listeners": ls, "clusters": cs}}
}

func (l Listener) object(at string) Object {
	routes := l.Routes
	if routes == nil {
		routes = []Object{Forward("/", "be", nil)}
	}
	filters := append([]Object{}, l.Filters...)
	filters = append(filters, Object{"name": "envoy.filters.http.router", "typed_config": Object{"@type": types + "filters.http.router.v3.Router"}})
	manager := Object{
		"@type": types + "filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": l.Name,
		"route_config": Object{"name": l.Name, "virtual_hosts": []Object{{"name": "all", "domains": []string{"*"}, "routes": routes}}},
		"http_filters": filters,
		"access_log": []Object{{"name": "stdout", "typed_config": Object{"@type": types + "access_loggers.stream.v3.StdoutAccessLog",
			"log_format": Object{"text_format_source": Object{"inline_string": "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%\n"}}}}},
	}
	maps.Copy(manager, l.Manager)
	chain := Object{"filters": []Object{{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}}}
	if l.TLS != nil {
		chain["transport_socket"] = Object{"name": "tls", "typed_config": Object{"@type": types + "transport_sockets.tls.v3.DownstreamTlsContext",
			"require_client_certificate": l.Mutual, "common_tls_context": l.TLS.context("h2", "http/1.1")}}
	}
	return Object{"name": l.Name, "address": address(at), "filter_chains": []Object{chain}}
}

func (c Cluster) object() Object {
	var endpoints []Object
	for _, at := range c.To {
		endpoints = append(endpoints, Object{"endpoint": Object{"address": address(at)}})
	}
	out := Object{"name": c.Name, "type": "STATIC", "connect_timeout": "5s",
		"load_assignment": Object{"cluster_name": c.Name, "endpoints": []Object{{"lb_endpoints": endpoints}}}}
	alpn := "http/1.1"
	if c.HTTP2 {
		alpn = "h2"
		options := Object{}
		maps.Copy(options, c.Options)
		const http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
		out["typed_extension_protocol_options"] = Object{http: Object{"@type": "type.googleapis.com/" + http,
			"explicit_http_config": Object{"http2_protocol_options": options}}}
	}
	if c.TLS != nil {
		out["transport_socket"] = Object{"name": "tls", "typed_config": Object{"@type": types + "transport_sockets.tls.v3.UpstreamTlsContext",
			"common_tls_context": c.TLS.context(alpn)}}
	}
	maps.Copy(out, c.More)
	return out
}

// context is a common_tls_context.
func (c *Credentials) context(alpn ...string) Object {
	file := func(path string) Object { return Object{"filename": path} }
	return Object{
		"tls_certificates":   []Object{{"certificate_chain": file(c.Chain), "private_key": file(c.Key)}},
		"validation_context": Object{"trusted_ca": file(c.Roots)},
		"alpn_protocols":     alpn,
	}
}

func address(at string) Object {
	host, port, _ := net.SplitHostPort(at)
	n, _ := strconv.Atoi(port)
	return Object{"socket_address": Object{"address": strings.Trim(host, "[]"), "port_value": n}}
}
