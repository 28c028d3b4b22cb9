package compile_test

import (
	"fmt"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/proxy/compile"
)

// report compiles one resource, written as protojson.
func report(t testing.TB, kind, text string) compile.Report {
	t.Helper()
	c := compile.New()
	parse := func(m proto.Message) {
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			t.Fatalf("%s: %v\n%s", kind, err, text)
		}
	}
	var r compile.Report
	switch kind {
	case "listener":
		var m listenerv3.Listener
		parse(&m)
		_, _, r = c.Listener(&m, "")
	case "route":
		var m routev3.RouteConfiguration
		parse(&m)
		_, r = c.Route(&m, "")
	case "cluster":
		var m clusterv3.Cluster
		parse(&m)
		_, _, r = c.Cluster(&m, "")
	case "endpoints":
		var m endpointv3.ClusterLoadAssignment
		parse(&m)
		_, r = c.Assignment(&m, "")
	case "secret":
		var m tlsv3.Secret
		parse(&m)
		_, r = c.Secret(&m, "")
	default:
		t.Fatalf("kind %s", kind)
	}
	return r
}

const (
	hcmType    = `"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"`
	routerHTTP = `{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`
	tcpFilter  = `{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","cluster":"c"}}`
	address    = `"address":{"socket_address":{"address":"127.0.0.1","port_value":80}}`
)

// withHCM is a listener whose connection manager has further fields.
func withHCM(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"name":"l",` + address + `,"filter_chains":[{"filters":[{"name":"hcm","typed_config":{` + hcmType + `,"route_config":{"virtual_hosts":[]}` + more + `}}]}]}`
}

func withRouter(more string) string {
	if more != "" {
		more = "," + more
	}
	return withHCM(`"http_filters":[` + routerHTTP + `]` + more)
}

func withFilter(f string) string { return withHCM(`"http_filters":[` + f + `,` + routerHTTP + `]`) }

func withRBAC(rules string) string {
	return withFilter(`{"name":"rbac","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":` + rules + `}}`)
}

func withPermission(p string) string {
	return withRBAC(`{"policies":{"p":{"permissions":[` + p + `],"principals":[{"any":true}]}}}`)
}

func withPrincipal(p string) string {
	return withRBAC(`{"policies":{"p":{"permissions":[{"any":true}],"principals":[` + p + `]}}}`)
}

func withMatch(m string) string {
	return `{"name":"l",` + address + `,"filter_chains":[{"filter_chain_match":` + m + `,"filters":[` + tcpFilter + `]}]}`
}

func withListenerFilters(filters ...string) string {
	return `{"name":"l",` + address + `,"listener_filters":[` + strings.Join(filters, ",") + `],"filter_chains":[{"filters":[` + tcpFilter + `]}]}`
}

const (
	tlsInspector = `{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}`
	originalDst  = `{"name":"dst","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}}`
)

func proxyHeader(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"name":"proxy","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"` + more + `}}`
}

// withRoute is a route configuration with one route of the given fields.
func withRoute(r string) string {
	return `{"name":"r","virtual_hosts":[{"name":"h","domains":["*"],"routes":[{` + r + `}]}]}`
}

func withAction(a string) string {
	return withRoute(`"match":{"prefix":"/"},"route":{"cluster":"c",` + a + `}`)
}

func withCondition(m string) string {
	return withRoute(`"match":{` + m + `},"direct_response":{"status":200}`)
}

func static(more string) string { return `{"name":"c","type":"STATIC",` + more + `}` }

func upstreamTLS(ctx string) string {
	return static(`"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",` + ctx + `}}`)
}

const rawSocket = `{"name":"raw","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}`

func upstreamProxy(fields string) string {
	return static(`"transport_socket":{"name":"proxy","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",` + fields + `}}`)
}

func downstreamTLS(ctx string) string {
	return `{"name":"l",` + address + `,"filter_chains":[{"filters":[` + tcpFilter + `],"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",` + ctx + `}}}]}`
}

func list(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",%d", i+1)
	}
	return b.String()[1:]
}

func quoted(n int) string {
	return `"` + strings.ReplaceAll(list(n), ",", `","`) + `"`
}

// What is well formed and supported, as the ground on which the refusals stand.
func TestAccepted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string][2]string{
		"listener":          {"listener", withRouter("")},
		"chain match":       {"listener", withMatch(`{"destination_port":80,"server_names":["*.a"],"prefix_ranges":[{"address_prefix":"10.0.0.0","prefix_len":8}]}`)},
		"PROXY header":      {"listener", withListenerFilters(proxyHeader(`"allow_requests_without_proxy_protocol":true,"disallowed_versions":["V1"],"stat_prefix":"p"`), tlsInspector)},
		"permission":        {"listener", withPermission(`{"header":{"name":"x","string_match":{"exact":"y"}}}`)},
		"principal":         {"listener", withPrincipal(`{"authenticated":{}}`)},
		"disabled filter":   {"route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"typed_per_filter_config":{"rbac":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig","disabled":true}}`)},
		"rbac of a route":   {"route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"typed_per_filter_config":{"rbac":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"}}`)},
		"forward":           {"route", withAction(`"timeout":"3s"`)},
		"template":          {"route", withCondition(`"path_match_policy":{"name":"t","typed_config":{"@type":"type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig","path_template":"/a/{*}"}}`)},
		"Istio's retries":   {"route", withAction(`"retry_policy":{"retry_on":"connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes","num_retries":2,"host_selection_retry_max_attempts":"5"}`)},
		"inbound retries":   {"route", withAction(`"retry_policy":{"retry_on":"reset-before-request","num_retries":2}`)},
		"no retries":        {"route", withAction(`"retry_policy":{"retry_on":"5xx","num_retries":0}`)},
		"operators":         {"route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"response_headers_to_add":[{"header":{"key":"x","value":"100%% of %REQ(X-User)%"}}]`)},
		"cluster":           {"cluster", static(`"lb_policy":"LEAST_REQUEST","circuit_breakers":{"thresholds":[{"max_connections":7}]}`)},
		"PROXY out":         {"cluster", upstreamProxy(`"config":{"version":"V2"},"transport_socket":` + rawSocket)},
		"PROXY before TLS":  {"cluster", upstreamProxy(`"config":{},"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext","sni":"a"}}`)},
		"upstream TLS":      {"cluster", upstreamTLS(`"sni":"a","common_tls_context":{"validation_context":{"trusted_ca":{"filename":"/ca"}}}`)},
		"downstream TLS":    {"listener", downstreamTLS(`"common_tls_context":{"tls_certificate_sds_secret_configs":[{"name":"default"}]}`)},
		"secret":            {"secret", `{"name":"s","validation_context":{"trusted_ca":{"inline_string":"PEM"}}}`},
		"endpoints":         {"endpoints", `{"cluster_name":"c","endpoints":[{"lb_endpoints":[{"endpoint":{` + address + `}}]}]}`},
		"names of endpoint": {"cluster", `{"name":"c","type":"STRICT_DNS","load_assignment":{"endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"db.example","port_value":1}}}}]}]}}`},
	} {
		if r := report(t, c[0], c[1]); r.Refused() {
			t.Errorf("%s: %s", name, r.Error())
		}
	}
}

// Each mistake, and each thing that is not built, is refused at its place.
func TestRefused(t *testing.T) {
	t.Parallel()
	const chain = "filter_chains[0]."
	const hcm = chain + "filters[0].typed_config."
	const route = "virtual_hosts[0].routes[0]."
	cases := []struct{ name, kind, text, path string }{
		{"listener without a name", "listener", strings.Replace(withRouter(""), `"name":"l",`, "", 1), "name"},
		{"listener without chains", "listener", `{"name":"l",` + address + `}`, "filter_chains"},
		{"listener at a name", "listener", `{"name":"l","address":{"socket_address":{"address":"localhost","port_value":1}}}`, "address.socket_address.address"},
		{"listener at UDP", "listener", strings.Replace(withRouter(""), `{"address":"127.0.0.1"`, `{"protocol":"UDP","address":"127.0.0.1"`, 1), "address.socket_address.protocol"},
		{"listener at a port beyond", "listener", strings.Replace(withRouter(""), `"port_value":80`, `"port_value":70000`, 1), "address.socket_address.port_value"},
		{"listener for gRPC", "listener", `{"name":"l","api_listener":{}}`, "api_listener"},
		{"unsupported field", "listener", strings.Replace(withRouter(""), `"name":"l"`, `"name":"l","transparent":true`, 1), "transparent"},
		{"negative duration", "listener", strings.Replace(withRouter(""), `"name":"l"`, `"name":"l","listener_filters_timeout":"-1s"`, 1), "listener_filters_timeout"},
		{"same match twice", "listener", `{"name":"l",` + address + `,"filter_chains":[{"filters":[` + tcpFilter + `]},{"filters":[` + tcpFilter + `]}]}`, "filter_chains"},
		{"no terminal filter", "listener", `{"name":"l",` + address + `,"filter_chains":[{}]}`, chain + "filters"},
		{"terminal filter before another", "listener", `{"name":"l",` + address + `,"filter_chains":[{"filters":[` + tcpFilter + `,` + tcpFilter + `]}]}`, chain + "filters[0]"},
		{"wildcard inside a server name", "listener", withMatch(`{"server_names":["a.*.b"]}`), chain + "filter_chain_match.server_names[0]"},
		{"prefix too long", "listener", withMatch(`{"prefix_ranges":[{"address_prefix":"10.0.0.0","prefix_len":33}]}`), chain + "filter_chain_match.prefix_ranges[0].prefix_len"},
		{"prefix of no address", "listener", withMatch(`{"source_prefix_ranges":[{"address_prefix":"ten"}]}`), chain + "filter_chain_match.source_prefix_ranges[0].address_prefix"},
		{"suffix match of addresses", "listener", withMatch(`{"address_suffix":"1"}`), chain + "filter_chain_match.address_suffix"},
		{"PROXY header behind an inspector", "listener", withListenerFilters(tlsInspector, proxyHeader("")), "listener_filters[1]"},
		{"PROXY header twice", "listener", withListenerFilters(proxyHeader(""), proxyHeader("")), "listener_filters[1]"},
		{"PROXY header and redirected connections", "listener", withListenerFilters(proxyHeader(""), originalDst), "listener_filters[1]"},
		{"PROXY header's fields", "listener", withListenerFilters(proxyHeader(`"rules":[{"tlv_type":2}]`)), "listener_filters[0].typed_config.rules"},
		{"PROXY header's fields for upstreams", "listener", withListenerFilters(proxyHeader(`"pass_through_tlvs":{}`)), "listener_filters[0].typed_config.pass_through_tlvs"},
		{"PROXY header for some ports", "listener", withListenerFilters(strings.Replace(proxyHeader(""), `"name"`, `"filter_disabled":{"any_match":true},"name"`, 1)), "listener_filters[0].filter_disabled"},
		{"no router", "listener", withHCM(""), hcm + "http_filters"},
		{"router not last", "listener", withHCM(`"http_filters":[` + routerHTTP + `,` + routerHTTP + `]`), hcm + "http_filters[1]"},
		{"HTTP/3", "listener", withRouter(`"codec_type":"HTTP3"`), hcm + "codec_type"},
		{"tracing provider", "listener", withRouter(`"tracing":{"provider":{"name":"zipkin"}}`), hcm + "tracing.provider"},
		{"local replies", "listener", withRouter(`"local_reply_config":{}`), hcm + "local_reply_config"},
		{"routes not by ADS", "listener", strings.Replace(withRouter(""), `"route_config":{"virtual_hosts":[]}`, `"rds":{"route_config_name":"r","config_source":{"path":"/x"}}`, 1), hcm + "rds.config_source.path"},
		{"fault filter that asks", "listener", withFilter(`{"name":"f","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault","abort":{"http_status":500}}}`), hcm + "http_filters[0].typed_config.abort"},
		{"policies behind gRPC-Web", "listener", withFilter(`{"name":"w","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"}},{"name":"r","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{}}}`), hcm + "http_filters[1]"},
		{"filter by discovery", "listener", withFilter(`{"name":"f","config_discovery":{}}`), hcm + "http_filters[0].config_discovery"},
		{"network filter among HTTP filters", "listener", withFilter(tcpFilter), hcm + "http_filters[0].typed_config"},
		{"policy without principals", "listener", withRBAC(`{"policies":{"p":{"permissions":[{"any":true}]}}}`), hcm + `http_filters[0].typed_config.rules.policies["p"].principals`},
		{"any: false", "listener", withPermission(`{"any":false}`), hcm + `http_filters[0].typed_config.rules.policies["p"].permissions[0].any`},
		{"empty permission", "listener", withPermission(`{}`), hcm + `http_filters[0].typed_config.rules.policies["p"].permissions[0]`},
		{"metadata of a token", "listener", withPrincipal(`{"metadata":{"filter":"jwt"}}`), hcm + `http_filters[0].typed_config.rules.policies["p"].principals[0].metadata`},
		{"bad regex", "listener", withPermission(`{"header":{"name":"x","string_match":{"safe_regex":{"regex":"("}}}}`), hcm + `http_filters[0].typed_config.rules.policies["p"].permissions[0].header.string_match.safe_regex.regex`},
		{"empty prefix", "listener", withPermission(`{"url_path":{"path":{"prefix":""}}}`), hcm + `http_filters[0].typed_config.rules.policies["p"].permissions[0].url_path.path`},
		{"matcher tree", "listener", withFilter(`{"name":"r","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","matcher":{}}}`), hcm + "http_filters[0].typed_config.matcher"},
		{"deep policy", "listener", withPermission(strings.Repeat(`{"not_rule":`, 70) + `{"any":true}` + strings.Repeat(`}`, 70)), hcm + `http_filters[0].typed_config.rules.policies["p"].permissions[0]` + strings.Repeat(".not_rule", 65)},
		{"something else as an access log", "listener", withRouter(`"access_log":[{"name":"g","typed_config":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig"}}]`), hcm + "access_log[0].typed_config"},
		{"operator of no log", "listener", withRouter(`"access_log":[{"name":"f","typed_config":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"/x","log_format":{"text_format":"%NOPE%"}}}]`), hcm + "access_log[0].typed_config"},
		{"matches without end", "listener", withMatch(`{"source_ports":[` + list(600) + `],"server_names":[` + quoted(600) + `]}`), "filter_chains"},
		{"certificate missing", "listener", downstreamTLS(`"common_tls_context":{}`), chain + "transport_socket.typed_config.common_tls_context"},
		{"clients verified by nobody", "listener", downstreamTLS(`"require_client_certificate":true,"common_tls_context":{"tls_certificate_sds_secret_configs":[{"name":"a"}]}`), chain + "transport_socket.typed_config.require_client_certificate"},
		{"upstream socket downstream", "listener", `{"name":"l",` + address + `,"filter_chains":[{"filters":[` + tcpFilter + `],"transport_socket":{"name":"t","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}}}]}`, chain + "transport_socket.typed_config"},

		{"domain twice", "route", `{"virtual_hosts":[{"name":"a","domains":["x"]},{"name":"b","domains":["x"]}]}`, "virtual_hosts"},
		{"host without domains", "route", `{"virtual_hosts":[{"name":"a"}]}`, "virtual_hosts[0].domains"},
		{"route without action", "route", withRoute(`"match":{"prefix":"/"}`), "virtual_hosts[0].routes[0]"},
		{"match without path", "route", withCondition(``), route + "match"},
		{"path separated prefix with a slash", "route", withCondition(`"path_separated_prefix":"/a/"`), route + "match.path_separated_prefix"},
		{"claim of a token", "route", withCondition(`"prefix":"/","dynamic_metadata":[{}]`), route + "match.dynamic_metadata"},
		{"header without a name", "route", withCondition(`"prefix":"/","headers":[{}]`), route + "match.headers[0].name"},
		{"range of nothing", "route", withCondition(`"prefix":"/","headers":[{"name":"x","range_match":{"start":"5","end":"5"}}]`), route + "match.headers[0]"},
		{"status of no response", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":100}`), route + "direct_response.status"},
		{"body in a file", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"filename":"/etc/passwd"}}`), route + "direct_response.body"},
		{"body too large", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"` + strings.Repeat("x", 4097) + `"}}`), route + "direct_response.body"},
		{"mirror", "route", withAction(`"request_mirror_policies":[{"cluster":"m"}]`), route + "route.request_mirror_policies"},
		{"rate limit", "route", withAction(`"rate_limits":[{}]`), route + "route.rate_limits"},
		{"unknown retry condition", "route", withAction(`"retry_policy":{"retry_on":"5xx,sometimes"}`), route + "route.retry_policy.retry_on"},
		{"idle attempts", "route", withAction(`"retry_policy":{"retry_on":"5xx","per_try_idle_timeout":"1s"}`), route + "route.retry_policy.per_try_idle_timeout"},
		{"retries in other priorities", "route", withAction(`"retry_policy":{"retry_on":"5xx","retry_priority":{"name":"p"}}`), route + "route.retry_policy.retry_priority"},
		{"retriable headers", "route", withAction(`"retry_policy":{"retry_on":"retriable-headers","retriable_headers":[{"name":"x","present_match":true}]}`), route + "route.retry_policy.retriable_headers"},
		{"retriable status that is none", "route", withAction(`"retry_policy":{"retry_on":"retriable-status-codes","retriable_status_codes":[42]}`), route + "route.retry_policy.retriable_status_codes[0]"},
		{"priority", "route", withAction(`"priority":"HIGH"`), route + "route.priority"},
		{"both rewrites", "route", withAction(`"prefix_rewrite":"/a","regex_rewrite":{"pattern":{"regex":"a"},"substitution":"b"}`), route + "route"},
		{"group that is not there", "route", withAction(`"regex_rewrite":{"pattern":{"regex":"(a)"},"substitution":"\\2"}`), route + "route.regex_rewrite.substitution"},
		{"lonely backslash", "route", withAction(`"regex_rewrite":{"pattern":{"regex":"(a)"},"substitution":"x\\"}`), route + "route.regex_rewrite.substitution"},
		{"no weight at all", "route", withRoute(`"match":{"prefix":"/"},"route":{"weighted_clusters":{"clusters":[{"name":"a","weight":0}]}}`), route + "route.weighted_clusters"},
		{"weights beyond", "route", withRoute(`"match":{"prefix":"/"},"route":{"weighted_clusters":{"clusters":[{"name":"a","weight":4294967295},{"name":"b","weight":1}]}}`), route + "route.weighted_clusters"},
		{"setting the host", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"request_headers_to_add":[{"header":{"key":"Host","value":"x"}}]`), route + "request_headers_to_add[0].header.key"},
		{"removing the path", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"request_headers_to_remove":[":path"]`), route + "request_headers_to_remove"},
		{"unknown operator", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"request_headers_to_add":[{"header":{"key":"x","value":"%NOPE%"}}]`), route + "request_headers_to_add[0].header.value"},
		{"open operator", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"request_headers_to_add":[{"header":{"key":"x","value":"%REQ(a"}}]`), route + "request_headers_to_add[0].header.value"},
		{"CORS of a route", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"typed_per_filter_config":{"cors":{"@type":"type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"}}`), route + `typed_per_filter_config["cors"]`},
		{"fault of a route", "route", withRoute(`"match":{"prefix":"/"},"direct_response":{"status":200},"typed_per_filter_config":{"f":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault","delay":{}}}`), route + `typed_per_filter_config["f"].delay`},

		{"cluster without a name", "cluster", `{"type":"STATIC"}`, "name"},
		{"ring hash", "cluster", static(`"lb_policy":"RING_HASH"`), "lb_policy"},
		{"outlier detection", "cluster", static(`"outlier_detection":{}`), "outlier_detection"},
		{"health checks", "cluster", static(`"health_checks":[{}]`), "health_checks"},
		{"slow start", "cluster", static(`"lb_policy":"LEAST_REQUEST","least_request_lb_config":{"slow_start_config":{}}`), "least_request_lb_config.slow_start_config"},
		{"one choice", "cluster", static(`"lb_policy":"LEAST_REQUEST","least_request_lb_config":{"choice_count":1}`), "least_request_lb_config.choice_count"},
		{"EDS not by ADS", "cluster", `{"name":"c","type":"EDS","eds_cluster_config":{"eds_config":{"api_config_source":{"api_type":"GRPC"}}}}`, "eds_cluster_config.eds_config"},
		{"EDS with endpoints", "cluster", `{"name":"c","type":"EDS","eds_cluster_config":{"eds_config":{"ads":{}}},"load_assignment":{}}`, "load_assignment"},
		{"original destination by a header", "cluster", `{"name":"c","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","original_dst_lb_config":{"use_http_header":true}}`, "original_dst_lb_config.use_http_header"},
		{"original destination at no port", "cluster", `{"name":"c","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","original_dst_lb_config":{"upstream_port_override":65536}}`, "original_dst_lb_config.upstream_port_override"},
		{"original destination's port elsewhere", "cluster", `{"name":"c","type":"STATIC","original_dst_lb_config":{"upstream_port_override":1}}`, "original_dst_lb_config"},
		{"original destination, round robin", "cluster", `{"name":"c","type":"ORIGINAL_DST"}`, "lb_policy"},
		{"logical DNS with two", "cluster", `{"name":"c","type":"LOGICAL_DNS","load_assignment":{"endpoints":[{"lb_endpoints":[{},{}]}]}}`, "load_assignment"},
		{"name in a static cluster", "cluster", static(`"load_assignment":{"endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"db","port_value":1}}}}]}]}`), "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address"},
		{"HTTP/3 upstream", "cluster", static(`"typed_extension_protocol_options":{"h":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http3_protocol_options":{}}}}`), `typed_extension_protocol_options["h"].explicit_http_config.http3_protocol_options`},
		{"source port", "cluster", static(`"upstream_bind_config":{"source_address":{"address":"127.0.0.6","port_value":5}}`), "upstream_bind_config.source_address"},
		{"names without roots", "cluster", upstreamTLS(`"common_tls_context":{"validation_context":{"match_subject_alt_names":[{"exact":"a"}]}}`), "transport_socket.typed_config.common_tls_context.validation_context"},
		{"DNS names by type", "cluster", upstreamTLS(`"common_tls_context":{"validation_context":{"trusted_ca":{"filename":"/ca"},"match_typed_subject_alt_names":[{"san_type":"DNS","matcher":{"exact":"a"}}]}}`), "transport_socket.typed_config.common_tls_context.validation_context.match_typed_subject_alt_names[0]"},
		{"no suite that TLS has", "cluster", upstreamTLS(`"common_tls_context":{"tls_params":{"cipher_suites":["NULL-MD5"]}}`), "transport_socket.typed_config.common_tls_context.tls_params"},
		{"unknown group", "cluster", upstreamTLS(`"common_tls_context":{"tls_params":{"ecdh_curves":["secp112r1"]}}`), "transport_socket.typed_config.common_tls_context.tls_params"},
		{"versions upside down", "cluster", upstreamTLS(`"common_tls_context":{"tls_params":{"tls_minimum_protocol_version":"TLSv1_3","tls_maximum_protocol_version":"TLSv1_2"}}`), "transport_socket.typed_config.common_tls_context.tls_params"},
		{"certificate hash", "cluster", upstreamTLS(`"common_tls_context":{"validation_context":{"verify_certificate_hash":["aa"]}}`), "transport_socket.typed_config.common_tls_context.validation_context.verify_certificate_hash"},

		{"PROXY header over nothing", "cluster", upstreamProxy(`"config":{}`), "transport_socket.typed_config.transport_socket"},
		{"PROXY header over another", "cluster", upstreamProxy(`"config":{},"transport_socket":{"name":"p","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport","transport_socket":` + rawSocket + `}}`), "transport_socket.typed_config.transport_socket.typed_config"},
		{"PROXY version 3", "cluster", upstreamProxy(`"config":{"version":3},"transport_socket":` + rawSocket), "transport_socket.typed_config.config.version"},
		{"fields of the client's PROXY header", "cluster", upstreamProxy(`"config":{"pass_through_tlvs":{}},"transport_socket":` + rawSocket), "transport_socket.typed_config.config.pass_through_tlvs"},
		{"fields in the PROXY header", "cluster", upstreamProxy(`"config":{"added_tlvs":[{"type":240}]},"transport_socket":` + rawSocket), "transport_socket.typed_config.config.added_tlvs"},
		{"PROXY header without addresses", "cluster", upstreamProxy(`"config":{},"allow_unspecified_address":true,"transport_socket":` + rawSocket), "transport_socket.typed_config.allow_unspecified_address"},

		{"back-off that is no pause", "cluster", `{"name":"c","type":"STRICT_DNS","dns_failure_refresh_rate":{"base_interval":"0s"}}`, "dns_failure_refresh_rate"},
		{"back-off upside down", "cluster", `{"name":"c","type":"STRICT_DNS","dns_failure_refresh_rate":{"base_interval":"5s","max_interval":"1s"}}`, "dns_failure_refresh_rate"},
		{"priority beyond", "endpoints", `{"endpoints":[{"priority":129}]}`, "endpoints[0].priority"},
		{"weight of zero", "endpoints", `{"endpoints":[{"lb_endpoints":[{"endpoint":{` + address + `},"load_balancing_weight":0}]}]}`, "endpoints[0].lb_endpoints[0].load_balancing_weight"},
		{"drop of overload", "endpoints", `{"policy":{"drop_overloads":[{}]}}`, "policy.drop_overloads"},
		{"endpoint by name", "endpoints", `{"endpoints":[{"lb_endpoints":[{"endpoint_name":"x"}]}]}`, "endpoints[0].lb_endpoints[0].endpoint_name"},

		{"secret of another kind", "secret", `{"name":"s","generic_secret":{}}`, "generic_secret"},
		{"certificate without key", "secret", `{"name":"s","tls_certificate":{"certificate_chain":{"inline_string":"x"}}}`, "tls_certificate"},
		{"no roots", "secret", `{"name":"s","validation_context":{}}`, "validation_context.trusted_ca"},
		{"key in the environment", "secret", `{"name":"s","tls_certificate":{"certificate_chain":{"inline_string":"x"},"private_key":{"environment_variable":"KEY"}}}`, "tls_certificate.private_key.environment_variable"},
	}
	for _, c := range cases {
		r := report(t, c.kind, c.text)
		found := false
		for _, p := range r.Problems {
			found = found || p.Path == c.path && p.Message != ""
		}
		if !found {
			t.Errorf("%s: no problem at %s: %s", c.name, c.path, r.Error())
		}
	}
}

func TestUnknownFieldsAreCounted(t *testing.T) {
	t.Parallel()
	m := &clusterv3.Cluster{Name: "c"}
	m.ProtoReflect().SetUnknown([]byte{0xf8, 0x7f, 0x01}) // field 2047, varint 1
	_, _, r := compile.New().Cluster(m, "")
	if r.Refused() || r.UnknownFields != 1 {
		t.Errorf("%+v, want one unknown field and no refusal", r)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	t.Parallel()
	var m tlsv3.Secret
	if err := protojson.Unmarshal([]byte(`{"name":"s","tls_certificate":{"certificate_chain":{"inline_string":"public"},"private_key":{"inline_string":"hush"}}}`), &m); err != nil {
		t.Fatal(err)
	}
	s, r := compile.New().Secret(&m, "")
	if r.Refused() {
		t.Fatal(r.Error())
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, *s); strings.Contains(text, "hush") {
			t.Errorf("%s prints the key: %s", format, text)
		}
	}
}
