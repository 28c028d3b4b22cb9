package validate

import (
	"net"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (c *checker) sidecar(s *networking.Sidecar) {
	if s.WorkloadSelector != nil {
		c.selectorLabels("spec.workloadSelector", "labels", s.WorkloadSelector.Labels, "it takes every workload of the namespace")
	}
	if len(s.Egress) == 0 && len(s.Ingress) == 0 && s.OutboundTrafficPolicy == nil && s.InboundConnectionPool == nil {
		c.errorf("spec", "add egress, ingress or outboundTrafficPolicy", "the sidecar says nothing")
		return
	}
	var ports []uint32
	for i, l := range s.Ingress {
		at := index("spec", "ingress", i)
		if l.GetPort() == nil {
			c.errorf(at, "add port with number, protocol and name", "the ingress listener has no port")
			continue
		}
		if slices.Contains(ports, l.Port.Number) {
			c.errorf(at+".port.number", "use another port", "port %d stands twice", l.Port.Number)
		}
		ports = append(ports, l.Port.Number)
		c.ingress(at, l)
	}
	c.connectionPool("spec.inboundConnectionPool", s.InboundConnectionPool)
	c.egressListeners(s.Egress)
	c.egressPolicy("spec.outboundTrafficPolicy", s.OutboundTrafficPolicy)
}

func (c *checker) ingress(at string, l *networking.IstioIngressListener) {
	c.sidecarPort(at, l.Port)
	c.check(at+".port.number", portRule(int64(l.Port.Number)))
	if l.Bind != "" {
		c.check(at+".bind", addressRule(l.Bind))
	}
	if l.DefaultEndpoint != "" {
		c.check(at+".defaultEndpoint", endpointRule(l.DefaultEndpoint))
	}
	c.connectionPool(at+".connectionPool", l.ConnectionPool)
	if l.ConnectionPool.GetHttp() != nil && !isHTTP(protocol(l.Port.Protocol)) {
		c.warnf(at+".connectionPool.http", "remove it, or change the protocol", "the port's protocol is %q, so settings for HTTP have no use", l.Port.Protocol)
	}
	t := l.Tls
	if t == nil {
		return
	}
	path := at + ".tls"
	for field, set := range map[string]bool{"subjectAltNames": len(t.SubjectAltNames) > 0, "httpsRedirect": t.HttpsRedirect, "credentialName": t.CredentialName != "",
		"credentialNames": len(t.CredentialNames) > 0, "tlsCertificates": len(t.TlsCertificates) > 0} {
		if set {
			c.errorf(path+"."+field, "remove it", "%s has no meaning at a sidecar's ingress", field)
		}
	}
	if t.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL || t.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH {
		c.errorf(path+".mode", "use SIMPLE or MUTUAL", "mode %s is not for a sidecar's ingress", t.Mode)
	}
	if !isTLS(protocol(l.Port.Protocol)) {
		c.errorf(path, "use protocol HTTPS or TLS", "protocol %s takes no tls settings", l.Port.Protocol)
	}
	c.serverTLS(path, t)
}

func endpointRule(endpoint string) error {
	if socket, ok := strings.CutPrefix(endpoint, unixPrefix); ok {
		return unixRule(socket)
	}
	const hint = "write 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///PATH"
	host, port, err := net.SplitHostPort(endpoint)
	number, numeric := strconv.Atoi(port)
	switch {
	case err != nil, numeric != nil:
		return broken(hint, "%q is not an endpoint", endpoint)
	case !slices.Contains([]string{"", "127.0.0.1", "0.0.0.0", "::1", "::"}, host):
		return broken(hint, "%q is not the workload itself", host)
	}
	return portRule(int64(number))
}

func (c *checker) sidecarPort(at string, p *networking.SidecarPort) {
	if p.TargetPort > 0 { //nolint:staticcheck // deprecated, and that is what we say
		c.errorf(at+".port.targetPort", "remove it", "targetPort has no meaning at a sidecar")
	}
	if p.Name != "" {
		c.check(at+".port.name", portNameRule(p.Name))
	}
	c.check(at+".port.protocol", protocolRule(p.Protocol))
}

func (c *checker) egressListeners(listeners []*networking.IstioEgressListener) {
	var ports []uint32
	var sockets []string
	for i, l := range listeners {
		at := index("spec", "egress", i)
		switch {
		case l == nil:
			c.errorf(at, "remove it", "the egress listener is empty")
			continue
		case l.Port == nil && i != len(listeners)-1:
			c.errorf(at, "move it to the end", "an egress listener without a port takes all the rest, so it must be the last")
		case l.Port == nil:
		case l.Port.Number == 0:
			if slices.Contains(sockets, l.Bind) {
				c.errorf(at+".bind", "use another socket", "socket %q stands twice", l.Bind)
			}
			sockets = append(sockets, l.Bind)
		default:
			if slices.Contains(ports, l.Port.Number) {
				c.errorf(at+".port.number", "use another port", "port %d stands twice", l.Port.Number)
			}
			ports = append(ports, l.Port.Number)
		}
		if l.Port != nil {
			c.sidecarPort(at, l.Port)
			c.egressBind(at, l)
		}
		c.egressHosts(at, l.Hosts)
	}
}

func (c *checker) egressBind(at string, l *networking.IstioEgressListener) {
	socket, unix := strings.CutPrefix(l.Bind, unixPrefix)
	switch {
	case l.Port.Number != 0:
		c.check(at+".port.number", portRule(int64(l.Port.Number)))
		if l.Bind != "" {
			c.check(at+".bind", addressRule(l.Bind))
		}
		return
	case !unix:
		c.errorf(at+".port", "write the number, or bind to unix:///PATH", "port 0 is for unix sockets")
	default:
		c.check(at+".bind", unixRule(socket))
	}
	if l.CaptureMode == networking.CaptureMode_IPTABLES {
		c.errorf(at+".captureMode", "write NONE", "connections to a unix socket can't be captured")
	}
}

func (c *checker) egressHosts(at string, hosts []string) {
	if len(hosts) == 0 {
		c.errorf(at, `add hosts, such as ["./*"]`, "the egress listener has no host")
		return
	}
	seen := map[string]map[string]bool{}
	for i, h := range hosts {
		path := index(at, "hosts", i)
		namespace, service, found := strings.Cut(h, "/")
		if found && !strings.HasPrefix(namespace, "~") {
			if namespace == "." {
				namespace = c.meta.Namespace
			}
			known := seen[namespace]
			if known[service] || known["*"] || service == "*" && len(known) > 0 {
				c.warnf(path, "remove one of them", "%q repeats a host of the list", h)
			}
			if known == nil {
				seen[namespace] = map[string]bool{}
			}
			seen[namespace][service] = true
		}
		c.namespacedHost(path, h, false, false)
	}
	if seen["*"]["*"] && len(seen) != 1 {
		c.warnf(at+".hosts", "remove the others", `"*/*" takes everything, so other hosts say nothing`)
	}
}

func (c *checker) egressPolicy(at string, p *networking.OutboundTrafficPolicy) {
	if p.GetEgressProxy() == nil {
		return
	}
	path := at + ".egressProxy"
	if p.Mode != networking.OutboundTrafficPolicy_ALLOW_ANY {
		c.errorf(path, "write mode: ALLOW_ANY", "an egress proxy needs mode ALLOW_ANY")
		return
	}
	c.check(path+".host", fqdn(p.EgressProxy.Host))
	if p.EgressProxy.Port == nil {
		c.errorf(path, "add port with a number", "the egress proxy has no port")
		return
	}
	c.destination(path, p.EgressProxy)
}
