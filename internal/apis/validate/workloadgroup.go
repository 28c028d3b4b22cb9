package validate

import (
	networking "istio.io/api/networking/v1alpha3"
	networkingbeta "istio.io/api/networking/v1beta1"
)

func (c *checker) workloadGroup(g *networking.WorkloadGroup) {
	if g.Template == nil {
		c.errorf("spec", "add template", "the workload group has no template")
		return
	}
	c.labels("spec.metadata.labels", g.Metadata.GetLabels())
	c.probe("spec.probe", g.Probe)
}

func (c *checker) probe(at string, p *networking.ReadinessProbe) {
	if p == nil {
		return
	}
	c.notNegative(at, "periodSeconds", p.PeriodSeconds)
	c.notNegative(at, "initialDelaySeconds", p.InitialDelaySeconds)
	c.notNegative(at, "timeoutSeconds", p.TimeoutSeconds)
	c.notNegative(at, "successThreshold", p.SuccessThreshold)
	c.notNegative(at, "failureThreshold", p.FailureThreshold)
	switch m := p.HealthCheckMethod.(type) {
	case *networking.ReadinessProbe_HttpGet:
		path := at + ".httpGet"
		c.check(path+".port", portRule(int64(m.HttpGet.GetPort())))
		if s := m.HttpGet.GetScheme(); s != "" && s != "HTTP" && s != "HTTPS" {
			c.errorf(path+".scheme", "write HTTP or HTTPS", "%q is not a scheme", s)
		}
		for i, h := range m.HttpGet.GetHttpHeaders() {
			if !probeHeader.MatchString(h.GetName()) {
				c.errorf(index(path, "httpHeaders", i), tokenHint, "%q is not the name of a header", h.GetName())
			}
		}
	case *networking.ReadinessProbe_TcpSocket:
		c.check(at+".tcpSocket.port", portRule(int64(m.TcpSocket.GetPort())))
	case *networking.ReadinessProbe_Exec:
		if len(m.Exec.GetCommand()) == 0 {
			c.errorf(at+".exec", "add command", "the command is empty")
		}
	case *networking.ReadinessProbe_Grpc:
		c.check(at+".grpc.port", portRule(int64(m.Grpc.GetPort())))
	default:
		c.errorf(at, "add httpGet, tcpSocket or exec", "the probe does nothing")
	}
}

func (c *checker) proxyConfig(p *networkingbeta.ProxyConfig) {
	c.selector("spec.selector", p.Selector)
	if n := p.Concurrency.GetValue(); n < 0 {
		c.errorf("spec.concurrency", "write 0 (all CPUs) or more", "concurrency %d is negative", n)
	}
}
