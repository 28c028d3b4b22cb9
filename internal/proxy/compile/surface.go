package compile

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// verdict says what happens to a field, or an extension, that is set.
type verdict uint8

// The verdicts.
const (
	// refused is the verdict of everything that the tables don't list.
	refused verdict = iota
	enforced
	inert
)

func (v verdict) String() string { return [...]string{"refused", "enforced", "inert"}[v] }

// rule is a verdict with its reason: why nothing has to be done for an inert
// field, or what a refused one would need.
type rule struct {
	verdict verdict
	reason  string
}

// fields are the rules of one message by field name.
type fields map[protoreflect.Name]rule

// surface is what the compiler knows: the messages that it reads field by field,
// and the extensions (types within an Any) that it meets.
type surface struct {
	messages   map[protoreflect.FullName]fields
	extensions map[string]rule // by type name, without "type.googleapis.com/"
}

// all lists enforced fields in one string, separated by spaces.
func all(names string) fields {
	f := fields{}
	for name := range strings.FieldsSeq(names) {
		f[protoreflect.Name(name)] = rule{verdict: enforced}
	}
	return f
}

// inert adds fields for which nothing has to be done.
func (f fields) inert(reason, names string) fields {
	for name := range strings.FieldsSeq(names) {
		f[protoreflect.Name(name)] = rule{inert, reason}
	}
	return f
}

// refuse gives refused fields a better reason than "not supported".
func (f fields) refuse(reason, names string) fields {
	for name := range strings.FieldsSeq(names) {
		f[protoreflect.Name(name)] = rule{refused, reason}
	}
	return f
}

func newSurface() *surface {
	s := &surface{messages: map[protoreflect.FullName]fields{}, extensions: extensions()}
	for _, part := range []map[protoreflect.FullName]fields{
		bootstrapSurface(), listenerSurface(), connectionManagerSurface(), routeSurface(), routeActionSurface(),
		matcherSurface(), rbacSurface(), clusterSurface(), endpointSurface(), tlsSurface(), coreSurface(), accessSurface(),
	} {
		for name, f := range part {
			s.messages[name] = f
		}
	}
	return s
}

// Reasons that several entries share.
const (
	statsReason   = "names Envoy's own statistics, which tulle does not have"
	noSpanReason  = "without a tracing provider no span leaves; a provider is refused"
	hashReason    = "only clusters with consistent hashing read it, and those are refused until they are built"
	retryReason   = "retries in other priorities are not built yet"
	jwtReason     = "reads token claims; JWT authentication is not built yet"
	dnsReason     = "the proxy has one resolver of its own"
	windowReason  = "flow control windows are the proxy's own: up to 256 KiB for a stream, 16 KiB while much of its connection waits, 16 MiB for a connection"
	secretsReason = "secrets come from the agent beside the proxy, whatever the stream is called"
	fetchReason   = "a generation goes live when what it references is there, per closure"
	telemetry     = "Istio's telemetry, which the engine does natively"
	peerReason    = "exchanges peer metadata over the connection; the engine knows peers from endpoint metadata and certificates"
)

// extensions is the verdict on every type that may stand in an Any. A type that
// is not here is refused.
func extensions() map[string]rule {
	m := map[string]rule{}
	for name := range strings.FieldsSeq(enforcedExtensions) {
		m[name] = rule{verdict: enforced}
	}
	for name, reason := range map[string]string{
		"stats.PluginConfig": telemetry,
		"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig":                         "chooses the ALPN of Istio's mutual TLS by the downstream protocol; the engine's upstream TLS does",
		"io.istio.http.peer_metadata.Config":                                                "reads and writes x-envoy-peer-metadata; the engine strips these headers at the mesh's edge and knows peers otherwise",
		"envoy.tcp.metadataexchange.config.MetadataExchange":                                peerReason,
		"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig":                          telemetry,
		"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig":             dnsReason,
		"envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig": dnsReason,
		"envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate":              "it has no fields; that it stands in a policy is what counts",
	} {
		m[name] = rule{inert, reason}
	}
	for name, reason := range map[string]string{
		"envoy.extensions.filters.http.cors.v3.CorsPolicy":                                               "CORS is not built yet",
		"envoy.extensions.filters.http.ext_authz.v3.ExtAuthz":                                            "external authorization is not built yet",
		"envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication":                                   "JWT authentication is not built yet",
		"envoy.extensions.filters.http.lua.v3.Lua":                                                       "tulle runs no Lua",
		"envoy.extensions.filters.http.wasm.v3.Wasm":                                                     "WebAssembly is not built yet",
		"envoy.extensions.filters.network.wasm.v3.Wasm":                                                  "WebAssembly is not built yet",
		"envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig":                            "dynamic forward proxying is not built yet",
		"envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig":                     "dynamic forward proxying is not built yet",
		"envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig":                               "dynamic forward proxying is not built yet",
		"envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig":                retryReason,
		"envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig":                                "access logs over gRPC are not built yet",
		"envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig":                                 "access logs over gRPC are not built yet",
		"envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig":                 "access logs over OpenTelemetry are not built yet",
		"envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter":                                "CEL is not built yet",
		"envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery":                                "the formatter is not built yet",
		"envoy.config.trace.v3.OpenTelemetryConfig":                                                      "tracing is not built yet",
		"envoy.config.trace.v3.ZipkinConfig":                                                             "tracing is not built yet",
		"envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig": "tracing is not built yet",
	} {
		m[name] = rule{refused, reason}
	}
	return m
}

const enforcedExtensions = `
envoy.extensions.filters.listener.http_inspector.v3.HttpInspector
envoy.extensions.filters.listener.original_dst.v3.OriginalDst
envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol
envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
envoy.extensions.filters.network.rbac.v3.RBAC
envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy
envoy.extensions.filters.http.router.v3.Router
envoy.extensions.filters.http.rbac.v3.RBAC
envoy.extensions.filters.http.rbac.v3.RBACPerRoute
envoy.extensions.filters.http.cors.v3.Cors
envoy.extensions.filters.http.fault.v3.HTTPFault
envoy.extensions.filters.http.grpc_web.v3.GrpcWeb
envoy.config.route.v3.FilterConfig
envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer
envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
envoy.extensions.access_loggers.file.v3.FileAccessLog
envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
envoy.extensions.access_loggers.stream.v3.StderrAccessLog
envoy.extensions.upstreams.http.v3.HttpProtocolOptions
envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig
envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig
`
