package validate

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
)

func (c *checker) destinationRule(dr *networking.DestinationRule) {
	c.check("spec.host", wildcardDomain(dr.Host))
	c.trafficPolicy("spec.trafficPolicy", dr.TrafficPolicy)
	var names []string
	for i, s := range dr.Subsets {
		at := index("spec", "subsets", i)
		if s == nil {
			c.errorf(at, "remove it", "the subset is empty")
			continue
		}
		if slices.Contains(names, s.Name) {
			c.errorf(at+".name", "rename one of them", "subset %q stands twice", s.Name)
		}
		names = append(names, s.Name)
		switch {
		case s.Name == "":
			c.errorf(at, "add name", "the subset has no name")
		case !isLabel(s.Name):
			c.errorf(at+".name", "names have letters, digits and -", "%q is not the name of a subset", s.Name)
		}
		c.labels(at+".labels", s.Labels)
		c.trafficPolicy(at+".trafficPolicy", s.TrafficPolicy)
	}
	c.exportTo(dr.ExportTo, false, dr.WorkloadSelector != nil)
	if dr.WorkloadSelector != nil {
		c.selectorLabels("spec.workloadSelector", "matchLabels", dr.WorkloadSelector.MatchLabels, "it takes every workload of the namespace")
	}
}

func (c *checker) trafficPolicy(at string, p *networking.TrafficPolicy) {
	if p == nil {
		return
	}
	if p.OutlierDetection == nil && p.ConnectionPool == nil && p.LoadBalancer == nil && p.Tls == nil && len(p.PortLevelSettings) == 0 && p.Tunnel == nil &&
		p.ProxyProtocol == nil && p.RetryBudget == nil {
		c.errorf(at, "remove it, or fill it", "the traffic policy is empty")
		return
	}
	if p.Tunnel != nil && p.ProxyProtocol != nil {
		c.errorf(at+".tunnel", "remove one of them", "tunnel can't stand beside proxyProtocol")
		return
	}
	c.policyParts(at, p.OutlierDetection, p.ConnectionPool, p.LoadBalancer, p.Tls)
	var ports []uint32
	for i, s := range p.PortLevelSettings {
		path := index(at, "portLevelSettings", i)
		if s == nil {
			c.errorf(path, "remove it", "the settings are empty")
			continue
		}
		if s.Port == nil {
			c.errorf(path, "add port with a number", "the settings name no port")
		}
		if slices.Contains(ports, s.Port.GetNumber()) {
			c.warnf(path+".port.number", "put all settings of a port into one item", "port %d stands twice: the settings above hold, these are ignored", s.Port.GetNumber())
		}
		ports = append(ports, s.Port.GetNumber())
		if s.OutlierDetection == nil && s.ConnectionPool == nil && s.LoadBalancer == nil && s.Tls == nil {
			c.errorf(path, "remove it, or fill it", "the settings of the port are empty")
			continue
		}
		c.policyParts(path, s.OutlierDetection, s.ConnectionPool, s.LoadBalancer, s.Tls)
	}
	c.tunnel(at+".tunnel", p.Tunnel)
}

func (c *checker) policyParts(at string, o *networking.OutlierDetection, p *networking.ConnectionPoolSettings, l *networking.LoadBalancerSettings, t *networking.ClientTLSSettings) {
	c.outlier(at+".outlierDetection", o)
	c.connectionPool(at+".connectionPool", p)
	c.loadBalancer(at+".loadBalancer", l, o != nil)
	c.clientTLS(at+".tls", t)
}

func (c *checker) tunnel(at string, t *networking.TrafficPolicy_TunnelSettings) {
	if t == nil {
		return
	}
	if t.Protocol != "" && t.Protocol != "CONNECT" && t.Protocol != "POST" {
		c.errorf(at+".protocol", "write CONNECT or POST", "%q is not a way to tunnel", t.Protocol)
	}
	if fqdn(t.TargetHost) != nil && !isAddress(t.TargetHost) {
		c.errorf(at+".targetHost", "write a DNS name or an address", "%q is neither a DNS name nor an address", t.TargetHost)
	}
	c.check(at+".targetPort", portRule(int64(t.TargetPort)))
}

func (c *checker) outlier(at string, o *networking.OutlierDetection) {
	if o == nil {
		return
	}
	c.duration(at+".baseEjectionTime", o.BaseEjectionTime)
	c.duration(at+".interval", o.Interval)
	if o.ConsecutiveErrors != 0 { //nolint:staticcheck // deprecated, and that is what we say
		c.warnf(at+".consecutiveErrors", "use consecutiveGatewayErrors or consecutive5xxErrors", "consecutiveErrors is deprecated")
	}
	if !o.SplitExternalLocalOriginErrors && o.ConsecutiveLocalOriginFailures.GetValue() > 0 {
		c.errorf(at+".consecutiveLocalOriginFailures", "set splitExternalLocalOriginErrors: true", "the failures are counted only when splitExternalLocalOriginErrors is true")
	}
	c.percent(at+".maxEjectionPercent", o.MaxEjectionPercent)
	c.percent(at+".minHealthPercent", o.MinHealthPercent)
}

func (c *checker) percent(at string, v int32) {
	if v < 0 || v > 100 {
		c.errorf(at, "write 0 to 100", "%d is not a percentage", v)
	}
}

func (c *checker) notNegative(at, field string, v int32) {
	if v < 0 {
		c.errorf(at+"."+field, "write 0 or more", "%s %d is negative", field, v)
	}
}

func (c *checker) connectionPool(at string, p *networking.ConnectionPoolSettings) {
	if p == nil {
		return
	}
	if p.Http == nil && p.Tcp == nil {
		c.errorf(at, "add http or tcp", "the connection pool is empty")
		return
	}
	if h := p.Http; h != nil {
		path := at + ".http"
		c.notNegative(path, "http1MaxPendingRequests", h.Http1MaxPendingRequests)
		c.notNegative(path, "http2MaxRequests", h.Http2MaxRequests)
		c.notNegative(path, "maxRequestsPerConnection", h.MaxRequestsPerConnection)
		c.notNegative(path, "maxRetries", h.MaxRetries)
		c.notNegative(path, "maxConcurrentStreams", h.MaxConcurrentStreams)
		c.duration(path+".idleTimeout", h.IdleTimeout)
		if h.H2UpgradePolicy == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE && h.UseClientProtocol {
			c.errorf(path+".useClientProtocol", "remove one of them", "useClientProtocol can't stand beside h2UpgradePolicy: UPGRADE")
		}
		if k := h.Http2KeepAlive; k != nil {
			if k.Interval == nil {
				c.errorf(path+".http2KeepAlive", "add interval", "interval is required")
			}
			if k.Timeout == nil {
				c.errorf(path+".http2KeepAlive", "add timeout", "timeout is required")
			}
			c.duration(path+".http2KeepAlive.interval", k.Interval)
			c.duration(path+".http2KeepAlive.timeout", k.Timeout)
		}
	}
	if t := p.Tcp; t != nil {
		path := at + ".tcp"
		c.notNegative(path, "maxConnections", t.MaxConnections)
		c.duration(path+".connectTimeout", t.ConnectTimeout)
		c.duration(path+".maxConnectionDuration", t.MaxConnectionDuration)
		if t.IdleTimeout.AsDuration().Milliseconds() != 0 { // 0s turns the timeout off
			c.duration(path+".idleTimeout", t.IdleTimeout)
		}
		c.keepalive(path+".tcpKeepalive", t.TcpKeepalive)
	}
}

// keepalive checks what the kernel counts in whole seconds.
func (c *checker) keepalive(at string, k *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive) {
	check := func(path string, d *durationpb.Duration) {
		c.duration(path, d)
		if t := d.AsDuration(); t >= time.Millisecond && t%time.Second != 0 {
			c.warnf(path, "write whole seconds", "keepalive counts whole seconds: instead of %s, %s holds", t, max(t.Truncate(time.Second), time.Second))
		}
	}
	check(at+".time", k.GetTime())
	check(at+".interval", k.GetInterval())
}

func (c *checker) clientTLS(at string, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	if rest, ok := strings.CutPrefix(t.CredentialName, "configmap://"); ok {
		namespace, name, found := strings.Cut(rest, "/")
		if !found || name == "" || namespace != c.meta.Namespace {
			c.errorf(at+".credentialName", "the form is configmap://NAMESPACE/NAME, with the object's own namespace", "%q is not in namespace %q", t.CredentialName, c.meta.Namespace)
		}
	}
	simple, mutual := t.Mode == networking.ClientTLSSettings_SIMPLE, t.Mode == networking.ClientTLSSettings_MUTUAL
	if t.InsecureSkipVerify.GetValue() {
		named := t.CaCertificates != "" || len(t.SubjectAltNames) > 0
		if simple && (named || t.CredentialName != "") || mutual && named {
			c.errorf(at+".insecureSkipVerify", "remove one of them", "what to verify is named, and insecureSkipVerify turns verification off")
		}
	}
	if (simple || mutual) && t.CredentialName != "" {
		if t.ClientCertificate != "" || t.CaCertificates != "" || t.PrivateKey != "" || t.CaCrl != "" {
			c.errorf(at+".credentialName", "remove the file names", "files of certificates can't stand beside credentialName")
		}
		return
	}
	if mutual && t.ClientCertificate == "" {
		c.errorf(at, "add clientCertificate, or use ISTIO_MUTUAL", "MUTUAL needs a client certificate")
	}
	if mutual && t.PrivateKey == "" {
		c.errorf(at, "add privateKey, or use ISTIO_MUTUAL", "MUTUAL needs a private key")
	}
}
