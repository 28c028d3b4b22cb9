package plan

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
)

// withPort appends a domain; port 0 leaves ports to the route configuration
// (ignore_port_in_host_matching), any other adds "domain:port" too.
func withPort(domains []string, domain string, port int) []string {
	domains = append(domains, domain)
	if port != 0 {
		domains = append(domains, domain+":"+strconv.Itoa(port))
	}
	return domains
}

// serviceDomains are the Host headers that mean a service to a workload whose
// DNS search domain is given, in Istio's order: the name, its short forms,
// per-pod names of headless services, addresses. alt are the short forms.
func serviceDomains(svc *registry.Service, port int, searchDomain string, f view.Families, dnsCapture bool) (domains, alt []string) {
	for _, host := range append([]string{svc.Hostname}, svc.Aliases...) {
		short := shortForms(host, port, searchDomain)
		domains = append(withPort(domains, host, port), short...)
		alt = append(alt, short...)
	}
	if svc.Resolution == registry.Passthrough && svc.FromKubernetes {
		for _, d := range domains {
			domains = append(domains, "*."+d)
		}
	}
	for _, p := range VIPs(svc, f, dnsCapture) {
		if p.IsSingleIP() {
			domains = withPort(domains, hostText(p.Addr()), port)
		}
	}
	return domains, alt
}

// hostText is an address as it stands in a Host header.
func hostText(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// shortForms are the other spellings of a host name that the search domain
// allows: "reviews", "reviews.default.svc", "reviews.default" for a caller in
// default.svc.cluster.local, the namespaced ones for other callers, and always
// the absolute form with a final dot.
func shortForms(host string, port int, searchDomain string) []string {
	var out []string
	if _, err := netip.ParseAddr(host); err != nil {
		out = withPort(out, host+".", port)
	}
	before, _, kube := strings.Cut(searchDomain, ".svc.")
	if kube {
		if !strings.HasSuffix(host, searchDomain[len(before):]) {
			return out
		}
		return append(out, kubeForms(host, port, before)...)
	}
	return append(out, sharedForms(host, port, searchDomain)...)
}

// kubeForms are the short forms of NAME.NAMESPACE.svc.SUFFIX.
func kubeForms(host string, port int, callerNamespace string) []string {
	svc := strings.Index(host, ".svc.")
	dot := strings.IndexByte(host, '.')
	if svc <= 0 || dot+1 > svc {
		return nil
	}
	var out []string
	if host[dot+1:svc] == callerNamespace {
		if host[:dot] != "*" { // that would be every host, not every host here
			out = withPort(out, host[:dot], port)
		}
		out = withPort(out, host[:svc]+".svc", port)
		return withPort(out, host[:svc], port)
	}
	out = withPort(out, host[:svc], port)
	return withPort(out, host[:svc]+".svc", port)
}

// sharedForms strips what a host shares with a search domain outside of
// Kubernetes: foo.local.campus.net is foo and foo.local in local.campus.net.
func sharedForms(host string, port int, searchDomain string) []string {
	h, d := strings.Split(host, "."), strings.Split(searchDomain, ".")
	shared := 0
	for shared < len(h) && shared < len(d) && h[len(h)-1-shared] == d[len(d)-1-shared] {
		shared++
	}
	if shared == 0 || searchDomain == "" {
		return nil
	}
	unique := h[:len(h)-shared]
	name := strings.Join(unique, ".")
	if name == "" || name == "*" {
		return nil
	}
	out := withPort(nil, name, port)
	if len(unique) == 2 {
		out = withPort(out, name+"."+h[len(unique)], port)
	}
	return out
}
