package compile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"

	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// Defaults of Envoy's HTTP connection manager, by the documentation of the
// field that each belongs to.
const (
	streamIdleTimeout = 5 * time.Minute
	idleTimeout       = time.Hour
	drainTimeout      = 5 * time.Second
	headerKiBMax      = 60
	headerCountMax    = 100
	serverName        = "envoy"
)

func (v *conv) manager(m *hcmv3.HttpConnectionManager, path string) *listener.HTTPManager {
	h := &listener.HTTPManager{
		Codec:                   listener.Codec(m.GetCodecType()),
		StreamIdleTimeout:       v.duration(m.GetStreamIdleTimeout(), streamIdleTimeout, join(path, "stream_idle_timeout")),
		RequestTimeout:          v.duration(m.GetRequestTimeout(), 0, join(path, "request_timeout")),
		HeadersTimeout:          v.duration(m.GetRequestHeadersTimeout(), 0, join(path, "request_headers_timeout")),
		DrainTimeout:            v.duration(m.GetDrainTimeout(), drainTimeout, join(path, "drain_timeout")),
		HeaderBytesMax:          headerKiBMax << 10,
		HeaderCountMax:          headerCountMax,
		ServerName:              m.GetServerName(),
		UseRemoteAddress:        m.GetUseRemoteAddress().GetValue(),
		SkipXFFAppend:           m.GetSkipXffAppend(),
		XFFTrustedHops:          m.GetXffNumTrustedHops(),
		GenerateRequestID:       m.GetGenerateRequestId() == nil || m.GetGenerateRequestId().GetValue(),
		PreserveRequestID:       m.GetPreserveExternalRequestId(),
		AlwaysRequestIDInResp:   m.GetAlwaysSetRequestIdInResponse(),
		NormalizePath:           m.GetNormalizePath().GetValue(),
		MergeSlashes:            m.GetMergeSlashes(),
		StripPort:               m.GetStripMatchingHostPort() || m.GetStripAnyHostPort(),
		Proxy100Continue:        m.GetProxy_100Continue(),
		AcceptHTTP10:            m.GetHttpProtocolOptions().GetAcceptHttp_10(),
		Via:                     m.GetVia(),
		AllowConnect:            m.GetHttp2ProtocolOptions().GetAllowConnect(),
		MaxConcurrentStreams:    m.GetHttp2ProtocolOptions().GetMaxConcurrentStreams().GetValue(),
		ServerHeaderPassThrough: m.GetServerHeaderTransformation() == hcmv3.HttpConnectionManager_PASS_THROUGH,
		AccessLog:               v.accessLogs(m.GetAccessLog(), join(path, "access_log")),
	}
	if h.ServerName == "" {
		h.ServerName = serverName
	}
	if k := m.GetMaxRequestHeadersKb(); k != nil {
		h.HeaderBytesMax = k.GetValue() << 10
	}
	if m.GetCodecType() > hcmv3.HttpConnectionManager_HTTP2 {
		v.report.refuse(join(path, "codec_type"), "HTTP/3 is not supported")
	}
	if m.GetServerHeaderTransformation() == hcmv3.HttpConnectionManager_APPEND_IF_ABSENT {
		v.report.refuse(join(path, "server_header_transformation"), "APPEND_IF_ABSENT is not supported")
	}
	h.PingInterval, h.PingTimeout = v.keepalive(m.GetHttp2ProtocolOptions().GetConnectionKeepalive(), join(path, "http2_protocol_options.connection_keepalive"))
	v.slashes(h, m, path)
	v.clientCert(h, m)
	v.commonHTTP(h, m.GetCommonHttpProtocolOptions(), join(path, "common_http_protocol_options"))
	v.routes(h, m, path)
	v.httpFilters(h, m, path)
	v.upgrades(h, m, path)
	if r := m.GetRequestIdExtension(); r != nil {
		if _, ok := v.unpacked[r.GetTypedConfig()].(*uuidv3.UuidRequestIdConfig); !ok {
			v.report.refuse(join(path, "request_id_extension"), "only UUIDs are supported")
		}
	}
	return h
}

func (v *conv) slashes(h *listener.HTTPManager, m *hcmv3.HttpConnectionManager, path string) {
	switch m.GetPathWithEscapedSlashesAction() {
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT, hcmv3.HttpConnectionManager_KEEP_UNCHANGED:
		h.EscapedSlashes = listener.KeepUnchanged
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		h.EscapedSlashes = listener.RejectRequest
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		h.EscapedSlashes = listener.UnescapeAndRedirect
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		h.EscapedSlashes = listener.UnescapeAndForward
	default:
		v.report.invalid(join(path, "path_with_escaped_slashes_action"), "no such action")
	}
}

func (v *conv) clientCert(h *listener.HTTPManager, m *hcmv3.HttpConnectionManager) {
	h.ForwardClientCert.Mode = listener.XFCCMode(m.GetForwardClientCertDetails())
	d := m.GetSetCurrentClientCertDetails()
	h.ForwardClientCert.Subject = d.GetSubject().GetValue()
	h.ForwardClientCert.URI = d.GetUri()
	h.ForwardClientCert.DNS = d.GetDns()
	h.ForwardClientCert.Cert = d.GetCert()
}

func (v *conv) commonHTTP(h *listener.HTTPManager, o *corev3.HttpProtocolOptions, path string) {
	h.IdleTimeout = v.idle(o, join(path, "idle_timeout"))
	h.MaxConnectionDuration = v.duration(o.GetMaxConnectionDuration(), 0, join(path, "max_connection_duration"))
	h.MaxStreamDuration = v.duration(o.GetMaxStreamDuration(), 0, join(path, "max_stream_duration"))
	h.MaxRequestsPerConnection = o.GetMaxRequestsPerConnection().GetValue()
	if n := o.GetMaxHeadersCount(); n != nil {
		h.HeaderCountMax = n.GetValue()
	}
}

func (v *conv) routes(h *listener.HTTPManager, m *hcmv3.HttpConnectionManager, path string) {
	switch r := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		h.RouteName = r.Rds.GetRouteConfigName()
		v.wantADS(r.Rds.GetConfigSource(), join(path, "rds.config_source"))
		if h.RouteName == "" {
			v.report.invalid(join(path, "rds.route_config_name"), "a name is needed")
		}
	case *hcmv3.HttpConnectionManager_RouteConfig:
		h.Inline = v.table(r.RouteConfig, join(path, "route_config"), "")
	default:
		v.report.invalid(path, "the connection manager needs rds or route_config")
	}
}

// wantADS refuses other ways to get resources than the stream at hand.
func (v *conv) wantADS(s *corev3.ConfigSource, path string) {
	if _, ok := s.GetConfigSourceSpecifier().(*corev3.ConfigSource_Ads); !ok {
		v.report.refuse(path, "only ADS is supported")
	}
}

// httpFilters compiles the list of filters; inert ones leave no trace.
func (v *conv) httpFilters(h *listener.HTTPManager, m *hcmv3.HttpConnectionManager, path string) {
	routes := false
	for i, f := range m.GetHttpFilters() {
		at := fmt.Sprintf("%s.http_filters[%d]", path, i)
		if routes {
			v.report.invalid(at, "the router must be the last filter")
		}
		if v.inert(f.GetTypedConfig()) {
			continue
		}
		switch c := v.unpacked[f.GetTypedConfig()].(type) {
		case *routerv3.Router:
			routes = true
		case *rbacv3.RBAC:
			if slices.ContainsFunc(h.Filters, func(s filter.Spec) bool { return s.GRPCWeb }) {
				v.report.refuse(at, "an RBAC filter behind gRPC-Web, which would judge the translated request, is not built; Istio puts it before")
			}
			h.Filters = append(h.Filters, filter.Spec{Name: f.GetName(), Disabled: f.GetDisabled(),
				Authz: v.policies(c.GetRules(), c.GetShadowRules(), c.GetShadowRulesStatPrefix(), join(at, "typed_config"))})
		case *grpcwebv3.GrpcWeb:
			h.Filters = append(h.Filters, filter.Spec{Name: f.GetName(), Disabled: f.GetDisabled(), GRPCWeb: true})
		case *corsv3.Cors, *faultv3.HTTPFault:
			// They do what a route asks, and a route that asks is refused.
		default:
			v.report.refuse(join(at, "typed_config"), fmt.Sprintf("%s is not an HTTP filter", f.GetName()))
		}
	}
	if !routes {
		v.report.invalid(join(path, "http_filters"), "the router is missing")
	}
}

func (v *conv) upgrades(h *listener.HTTPManager, m *hcmv3.HttpConnectionManager, path string) {
	for _, u := range m.GetUpgradeConfigs() {
		if u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			h.Upgrades = append(h.Upgrades, strings.ToLower(u.GetUpgradeType()))
		}
	}
}
