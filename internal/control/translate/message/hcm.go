package message

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/model/pool"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/plan"
)

const (
	hcmFilter = "envoy.filters.network.http_connection_manager"
	tcpFilter = "envoy.filters.network.tcp_proxy"
	// proxyServer is the Server header of what a proxy answers for the app.
	proxyServer = "istio-envoy"
)

// manager is an HTTP connection manager as all of ours begin: paths are
// normalized as the mesh says, requests have ids, WebSockets pass, streams may
// idle.
func (w *Writer) manager(stat string) *hcmv3.HttpConnectionManager {
	slashes := hcmv3.HttpConnectionManager_KEEP_UNCHANGED
	paths := w.snap.Mesh().PathNormalization
	if paths >= model.PathDecodeSlashes {
		slashes = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
	return &hcmv3.HttpConnectionManager{
		StatPrefix:                   stat + ";",
		NormalizePath:                wrapperspb.Bool(paths >= model.PathBase),
		MergeSlashes:                 paths >= model.PathMergeSlashes,
		PathWithEscapedSlashesAction: slashes,
		Proxy_100Continue:            true,
		StreamIdleTimeout:            durationpb.New(0),
		UseRemoteAddress:             wrapperspb.Bool(false),
		UpgradeConfigs:               []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		// Istio leaves it out, and WebSockets over HTTP/2 with it (RFC 8441).
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
		RequestIdExtension: &hcmv3.RequestIDExtension{TypedConfig: pack(&uuidv3.UuidRequestIdConfig{
			UseRequestIdForTraceSampling: wrapperspb.Bool(true),
		})},
		AccessLog:   w.accessLog(),
		HttpFilters: httpFilters(),
	}
}

// httpFilters are the filters that every manager has; fault and cors do
// nothing until a route asks.
func httpFilters() []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		requestFilter("envoy.filters.http.grpc_stats", &grpcstatsv3.FilterConfig{
			EmitFilterState:        true,
			PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(false)},
		}),
		requestFilter("envoy.filters.http.fault", &faultv3.HTTPFault{}),
		requestFilter("envoy.filters.http.cors", &corsv3.Cors{}),
		requestFilter("envoy.filters.http.router", &routerv3.Router{}),
	}
}

func requestFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(config)}}
}

// forProtocol gives a port that declares gRPC-Web the filter for it, before those
// that count and route calls (Istio: buildHTTPConnectionManager).
func forProtocol(m *hcmv3.HttpConnectionManager, p registry.Protocol) *hcmv3.HttpConnectionManager {
	if p == registry.GRPCWeb {
		m.HttpFilters = slices.Insert(m.HttpFilters, 0, requestFilter("envoy.filters.http.grpc_web", &grpcwebv3.GrpcWeb{}))
	}
	return m
}

func byRDS(m *hcmv3.HttpConnectionManager, routes string) *hcmv3.HttpConnectionManager {
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: adsSource(), RouteConfigName: routes}}
	return m
}

// inboundManager serves the app's own port: callers are told to the app by
// x-forwarded-client-cert.
func (w *Writer) inboundManager(stat string, rc *routev3.RouteConfiguration) *hcmv3.HttpConnectionManager {
	m := w.manager(stat)
	m.ServerName = proxyServer
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_APPEND_FORWARD
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
		Subject: wrapperspb.Bool(true), Uri: true, Dns: true,
	}
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	return m
}

// gatewayManager faces callers outside of the mesh: their address is what the
// connection says, and what they claim of certificates is dropped, unless the
// mesh trusts those who stand before its gateways.
func (w *Writer) gatewayManager(stat string) *hcmv3.HttpConnectionManager {
	m := w.manager(stat)
	m.ServerName = proxyServer
	m.UseRemoteAddress = wrapperspb.Bool(true)
	topology := w.snap.Mesh().Topology
	m.XffNumTrustedHops = topology.TrustedProxies
	m.ForwardClientCertDetails = clientCert(topology.ClientCert)
	switch topology.ClientCert {
	case model.ClientCertSanitizeSet, model.ClientCertAppendForward:
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
			Subject: wrapperspb.Bool(true), Cert: true, Uri: true, Dns: true,
		}
	}
	return m
}

func clientCert(c model.ClientCert) hcmv3.HttpConnectionManager_ForwardClientCertDetails {
	switch c {
	case model.ClientCertSanitize:
		return hcmv3.HttpConnectionManager_SANITIZE
	case model.ClientCertForwardOnly:
		return hcmv3.HttpConnectionManager_FORWARD_ONLY
	case model.ClientCertAppendForward:
		return hcmv3.HttpConnectionManager_APPEND_FORWARD
	case model.ClientCertAlwaysForwardOnly:
		return hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY
	}
	return hcmv3.HttpConnectionManager_SANITIZE_SET
}

// httpProxyManager takes requests in absolute form, and CONNECT.
func (w *Writer) httpProxyManager(stat string) *hcmv3.HttpConnectionManager {
	m := byRDS(w.manager(stat), plan.HTTPProxyRoutes)
	m.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AllowAbsoluteUrl: wrapperspb.Bool(true)}
	m.UpgradeConfigs = append(m.UpgradeConfigs, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: "CONNECT"})
	return m
}

func networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(config)}}
}

func httpFilter(m *hcmv3.HttpConnectionManager) *listenerv3.Filter {
	return networkFilter(hcmFilter, m)
}

// tcpProxy forwards bytes to one cluster, for as long as the pool lets a
// connection be.
func (w *Writer) tcpProxy(cluster string, pool *pool.Settings) *listenerv3.Filter {
	p := &tcpproxyv3.TcpProxy{
		StatPrefix:       cluster,
		ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster},
		AccessLog:        w.accessLog(),
	}
	limitTime(p, pool)
	return networkFilter(tcpFilter, p)
}

func blackHole(cluster string) *listenerv3.Filter {
	return networkFilter(tcpFilter, &tcpproxyv3.TcpProxy{
		StatPrefix: cluster, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster},
	})
}

// chainFilters are the network filters of a chain that forwards bytes.
func (w *Writer) chainFilters(c *chain) []*listenerv3.Filter {
	p := &tcpproxyv3.TcpProxy{StatPrefix: c.stat, AccessLog: w.accessLog()}
	limitTime(p, c.pool)
	if len(c.clusters) == 1 {
		p.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: c.clusters[0].name}
	} else {
		w := &tcpproxyv3.TcpProxy_WeightedCluster{}
		for _, x := range c.clusters {
			w.Clusters = append(w.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: x.name, Weight: uint32(x.weight)})
		}
		p.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	return []*listenerv3.Filter{networkFilter(tcpFilter, p)}
}
