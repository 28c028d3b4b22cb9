package validate

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/tullemesh/tulle/internal/apis/problem"
)

const connectTimeoutMax = time.Hour // Istio's limit

// MeshConfig checks the fields of a mesh configuration that are written; defaults are not its concern.
func MeshConfig(m *meshconfig.MeshConfig) []problem.Problem {
	c := &checker{}
	for path, port := range map[string]int32{"proxyListenPort": m.ProxyListenPort, "proxyInboundListenPort": m.ProxyInboundListenPort, "proxyHttpPort": m.ProxyHttpPort} {
		if port != 0 {
			c.check(path, portRule(int64(port)))
		}
	}
	c.duration("connectTimeout", m.ConnectTimeout)
	if t := m.ConnectTimeout.AsDuration(); t > connectTimeoutMax {
		c.errorf("connectTimeout", "write 1h or less", "%s is longer than %s", t, connectTimeoutMax)
	}
	c.duration("dnsRefreshRate", m.DnsRefreshRate)
	if m.DnsRefreshRate.AsDuration() == time.Millisecond { // Envoy: dns_refresh_rate is above one
		c.errorf("dnsRefreshRate", "write 2ms or more", "names can't be resolved every millisecond")
	}
	c.keepalive("tcpKeepalive", m.TcpKeepalive)
	if t := m.ProtocolDetectionTimeout.AsDuration(); t%time.Millisecond != 0 || t < 0 {
		c.errorf("protocolDetectionTimeout", "write whole milliseconds; 0s waits for as long as it takes", "%s is not usable", t)
	}
	if m.TrustDomain != "" {
		c.check("trustDomain", trustDomainName(m.TrustDomain))
	}
	for i, alias := range m.TrustDomainAliases {
		c.check("trustDomainAliases["+strconv.Itoa(i)+"]", trustDomainName(alias))
	}
	if m.RootNamespace != "" && !isLabel(m.RootNamespace) {
		c.errorf("rootNamespace", "names have letters, digits and -", "%q is not a namespace", m.RootNamespace)
	}
	c.visibilities("defaultServiceExportTo", m.DefaultServiceExportTo)
	c.visibilities("defaultVirtualServiceExportTo", m.DefaultVirtualServiceExportTo)
	c.visibilities("defaultDestinationRuleExportTo", m.DefaultDestinationRuleExportTo)
	c.locality("localityLbSetting", m.LocalityLbSetting, true)
	for i, s := range m.ServiceSettings {
		for j, h := range s.GetHosts() {
			c.check(index("serviceSettings["+strconv.Itoa(i)+"]", "hosts", j), wildcardDomain(h))
		}
	}
	c.retries("defaultHttpRetryPolicy", m.DefaultHttpRetryPolicy)
	c.meshProxy("defaultConfig", m.DefaultConfig)
	return c.problems
}

func (c *checker) visibilities(path string, entries []string) {
	for i, e := range entries {
		if e != "*" && e != "." && e != "~" && !isLabel(e) {
			c.errorf(path+"["+strconv.Itoa(i)+"]", `use ".", "*" or the name of a namespace`, "%q is not a namespace", e)
		}
	}
	if len(entries) > 1 && (slices.Contains(entries, "*") || slices.Contains(entries, "~")) {
		c.errorf(path, "remove the others", `"*" (everybody) and "~" (nobody) stand alone`)
	}
}

// trustDomainName is a DNS name that may end in digits.
func trustDomainName(name string) error {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	if i := slices.IndexFunc(labels, func(l string) bool { return !isLabel(l) }); i >= 0 {
		return broken("write a name such as cluster.local", "%q is not a trust domain", name)
	}
	return nil
}

func (c *checker) meshProxy(at string, p *meshconfig.ProxyConfig) {
	if p == nil {
		return
	}
	for field, address := range map[string]string{
		"discoveryAddress": p.DiscoveryAddress, "statsdUdpAddress": p.StatsdUdpAddress,
		"envoyMetricsService.address": p.EnvoyMetricsService.GetAddress(), "envoyAccessLogService.address": p.EnvoyAccessLogService.GetAddress(),
	} {
		if address != "" {
			c.check(at+"."+field, hostPortRule(address))
		}
	}
	for field, port := range map[string]int32{"proxyAdminPort": p.ProxyAdminPort, "statusPort": p.StatusPort} {
		if port != 0 {
			c.check(at+"."+field, portRule(int64(port)))
		}
	}
	c.wholeSeconds(at+".drainDuration", p.DrainDuration)
	if n := p.Concurrency.GetValue(); n < 0 {
		c.errorf(at+".concurrency", "write 0 (all CPUs) or more", "concurrency %d is negative", n)
	}
}

func (c *checker) wholeSeconds(at string, d *durationpb.Duration) {
	c.duration(at, d)
	if t := d.AsDuration(); t >= time.Millisecond && t%time.Second != 0 {
		c.errorf(at, "write whole seconds", "%s is finer than a second", t)
	}
}

func hostPortRule(address string) error {
	host, port, err := net.SplitHostPort(address)
	number, numeric := strconv.Atoi(port)
	if err != nil || numeric != nil {
		return broken("the form is HOST:PORT", "%q is not an address with a port", address)
	}
	if fqdn(host) != nil && !isAddress(host) {
		return broken("the form is HOST:PORT", "%q is neither a DNS name nor an address", host)
	}
	return portRule(int64(number))
}
