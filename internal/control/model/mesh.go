package model

import (
	"time"

	"github.com/tullemesh/tulle/internal/control/model/pool"
	meshconfig "istio.io/api/mesh/v1alpha1"
)

// MeshFrom puts a mesh configuration into our own words. Fields that are not
// set have Istio's defaults (apis.DecodeMeshConfig has set most of them). Nil
// gives the defaults.
func MeshFrom(c *meshconfig.MeshConfig) *Mesh {
	m := &Mesh{
		TrustDomain:              orString(c.GetTrustDomain(), "cluster.local"),
		RootNamespace:            orString(c.GetRootNamespace(), "istio-system"),
		DomainSuffix:             "cluster.local",
		AutoMTLS:                 true,
		ServiceExportTo:          orPublic(c.GetDefaultServiceExportTo()),
		VirtualServiceExportTo:   orPublic(c.GetDefaultVirtualServiceExportTo()),
		DestinationRuleExportTo:  orPublic(c.GetDefaultDestinationRuleExportTo()),
		ConnectTimeout:           10 * time.Second,
		ProtocolDetectionTimeout: 0,
		DNSRefresh:               60 * time.Second,
		AccessLogFile:            c.GetAccessLogFile(),
		AccessLogFormat:          c.GetAccessLogFormat(),
		AccessLogJSON:            c.GetAccessLogEncoding() == meshconfig.MeshConfig_JSON,
		TrustDomainAliases:       c.GetTrustDomainAliases(),
		HTTPProxyPort:            int(c.GetProxyHttpPort()),
		PathNormalization:        pathNormalization(c.GetPathNormalization().GetNormalization()),
		H2Upgrade:                c.GetH2UpgradePolicy() == meshconfig.MeshConfig_UPGRADE,
		Keepalive:                pool.KeepaliveFrom(c.GetTcpKeepalive()),
		Topology:                 topology(c.GetDefaultConfig().GetGatewayTopology()),
	}
	if v := c.GetEnableAutoMtls(); v != nil {
		m.AutoMTLS = v.GetValue()
	}
	if d := c.GetConnectTimeout(); d != nil {
		m.ConnectTimeout = d.AsDuration()
	}
	if d := c.GetDnsRefreshRate(); d != nil {
		m.DNSRefresh = d.AsDuration()
	}
	if d := c.GetProtocolDetectionTimeout(); d != nil {
		m.ProtocolDetectionTimeout = d.AsDuration()
	}
	if p := c.GetOutboundTrafficPolicy(); p != nil {
		m.RegistryOnly = p.GetMode() == meshconfig.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
	}
	return m
}

// pathNormalization: Istio's default is BASE.
func pathNormalization(n meshconfig.MeshConfig_ProxyPathNormalization_NormalizationType) PathNormalization {
	switch n {
	case meshconfig.MeshConfig_ProxyPathNormalization_NONE:
		return PathAsIs
	case meshconfig.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:
		return PathMergeSlashes
	case meshconfig.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		return PathDecodeSlashes
	case meshconfig.MeshConfig_ProxyPathNormalization_DEFAULT, meshconfig.MeshConfig_ProxyPathNormalization_BASE:
	}
	return PathBase
}

func topology(t *meshconfig.Topology) Topology {
	out := Topology{TrustedProxies: t.GetNumTrustedProxies(), ProxyHeader: t.GetProxyProtocol() != nil}
	switch t.GetForwardClientCertDetails() {
	case meshconfig.ForwardClientCertDetails_SANITIZE:
		out.ClientCert = ClientCertSanitize
	case meshconfig.ForwardClientCertDetails_FORWARD_ONLY:
		out.ClientCert = ClientCertForwardOnly
	case meshconfig.ForwardClientCertDetails_APPEND_FORWARD:
		out.ClientCert = ClientCertAppendForward
	case meshconfig.ForwardClientCertDetails_ALWAYS_FORWARD_ONLY:
		out.ClientCert = ClientCertAlwaysForwardOnly
	case meshconfig.ForwardClientCertDetails_UNDEFINED, meshconfig.ForwardClientCertDetails_SANITIZE_SET:
	}
	return out
}

func orString(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// orPublic is Istio's default of the default exportTo: everybody.
func orPublic(s []string) []string {
	if len(s) == 0 {
		return []string{"*"}
	}
	return s
}
