package validate

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/match"
)

// The forms of names. Istio takes letters of either case in DNS names.
var (
	dnsLabel      = regexp.MustCompile(`^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	wildcardLabel = regexp.MustCompile(`^(\*|(\*|\*-)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)$`)
	labelKey      = regexp.MustCompile(`^(?:([a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)*)/)?((?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$`)
	labelValue    = regexp.MustCompile(`^((?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`)
)

const (
	labelBytesMax  = 63
	domainBytesMax = 255
	prefixBytesMax = 253
	portMax        = 65535
	regexBytesMax  = 1024 // Istio's own limit, below ours
	unixPrefix     = "unix://"
	meshGateway    = "mesh"
)

func isLabel(s string) bool { return len(s) <= labelBytesMax && dnsLabel.MatchString(s) }

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// domainSize refuses names that are empty or too long.
func domainSize(name string) error {
	switch {
	case name == "":
		return broken("write a DNS name", "the name is empty")
	case len(name) > domainBytesMax:
		return broken("", "%q has more than %d characters", name, domainBytesMax)
	}
	return nil
}

// domainLabels checks the labels of a DNS name; a final dot may stand.
func domainLabels(domain string) error {
	labels := strings.Split(domain, ".")
	last := labels[len(labels)-1]
	if _, err := strconv.Atoi(last); err == nil {
		return broken("write the name of the host", "%q is no DNS name: its last label %q is a number", domain, last)
	}
	for i, l := range labels {
		if i == len(labels)-1 && l == "" {
			return nil
		}
		if !isLabel(l) {
			return broken("labels have letters, digits and -, at most 63", "%q is no DNS name: its label %q is not valid", domain, l)
		}
	}
	return nil
}

// fqdn is a full DNS name without wildcards.
func fqdn(name string) error {
	if err := domainSize(name); err != nil {
		return err
	}
	return domainLabels(name)
}

// wildcardDomain is a DNS name whose first label may be, or begin with, a wildcard.
func wildcardDomain(name string) error {
	if err := domainSize(name); err != nil {
		return err
	}
	first, rest, more := strings.Cut(name, ".")
	if len(first) > labelBytesMax || !wildcardLabel.MatchString(first) {
		return broken(`a wildcard stands at the start, as in "*.example.com"`, "%q is no host name: its label %q is not valid", name, first)
	}
	if more {
		return domainLabels(rest)
	}
	return nil
}

// gatewayDomain also takes the names that Istio's AUTO_PASSTHROUGH makes: outbound_.80_._.host, when the route matches by SNI.
func gatewayDomain(bySNI bool, name string) error {
	if err := domainSize(name); err != nil {
		return err
	}
	if !bySNI || !strings.HasPrefix(name, "outbound_") {
		return wildcardDomain(name)
	}
	const parts = 4
	p := strings.Split(name, "_")
	if len(p) < parts || !strings.ContainsAny(strings.Trim(p[1], "."), "0123456789") || !hasLetter(strings.Trim(p[3], ".")) {
		return broken("", "%q should have the form outbound_.PORT_._.HOST", name)
	}
	return nil
}

func hasLetter(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' })
}

func partialWildcard(host string) error {
	if strings.Contains(host, "*") && len(host) != 1 && !strings.HasPrefix(host, "*.") {
		return broken(`a wildcard is a whole label at the start: "*.example.com"`, "partial wildcard %q", host)
	}
	return nil
}

// hostPart checks the DNS name of an entry of Gateway.hosts or Sidecar.hosts.
func (c *checker) hostPart(at, host string, ofGateway bool) {
	if host != "*" && !strings.Contains(host, ".") {
		c.errorf(at, "write the full name, such as "+host+".default.svc.cluster.local", "short name %q", host)
	}
	if err := wildcardDomain(host); err != nil && (!ofGateway || !isAddress(host)) {
		c.check(at, err)
	}
	c.check(at, partialWildcard(host))
}

// namespacedHost checks namespace/host; a gateway may leave the namespace out.
func (c *checker) namespacedHost(at, entry string, ofGateway, gatewaySemantics bool) {
	namespace, host, found := strings.Cut(entry, "/")
	if !found {
		if ofGateway {
			c.hostPart(at, entry, true)
			return
		}
		c.errorf(at, `write "./`+entry+`" or "*/`+entry+`"`, "%q has no namespace", entry)
		return
	}
	if namespace == "" || host == "" {
		c.errorf(at, `the form is "namespace/host"`, "%q lacks the namespace or the host", entry)
	}
	switch {
	case ofGateway:
		if namespace != "*" && namespace != "." && (namespace != "~" || !gatewaySemantics) && !isLabel(namespace) {
			c.errorf(at, `use *, . or the name of a namespace`, "%q is not a namespace", namespace)
		}
	default:
		ns := strings.TrimPrefix(namespace, "~")
		if ns != "" && ns != "*" && ns != "." && !isLabel(ns) {
			c.errorf(at, `use *, ., ~ or the name of a namespace`, "%q is not a namespace", namespace)
		}
	}
	c.hostPart(at, host, ofGateway)
}

func portRule(number int64) error {
	if number < 1 || number > portMax {
		return broken("ports go from 1 to 65535", "%d is not a port", number)
	}
	return nil
}

func portNameRule(name string) error {
	if !isLabel(name) {
		return broken("port names have letters, digits and -, such as http-web", "%q is not a port name", name)
	}
	return nil
}

// protocolWords are those that Istio reads, in any case.
func protocolWords() []string {
	return []string{"http", "https", "http2", "grpc", "grpc-web", "tcp", "tls", "mongo", "redis", "mysql", "udp", "http_proxy"}
}

// protocol is a port's protocol, lower-case; empty when Istio does not know the word.
func protocol(word string) string {
	word = strings.ToLower(word)
	if slices.Contains(protocolWords(), word) {
		return word
	}
	return ""
}

func isHTTP(p string) bool {
	return slices.Contains([]string{"http", "http2", "http_proxy", "grpc", "grpc-web"}, p)
}
func isTLS(p string) bool { return p == "https" || p == "tls" }
func isTCP(p string) bool {
	return isTLS(p) || slices.Contains([]string{"tcp", "mongo", "redis", "mysql"}, p)
}

func protocolRule(word string) error {
	if word != "" && protocol(word) == "" {
		return broken("use one of "+strings.ToUpper(strings.Join(protocolWords(), ", ")), "unknown protocol %q", word)
	}
	return nil
}

func addressRule(s string) error {
	if !isAddress(s) {
		return broken("write an address such as 10.1.2.3", "%q is not an IP address", s)
	}
	return nil
}

// subnetRule is for an address or a CIDR range.
func subnetRule(s string) error {
	if _, err := match.ParseCIDR(s); err != nil {
		return broken("write an address or a range such as 10.1.0.0/16", "%q is not an IP address or a CIDR range", s)
	}
	return nil
}

func unixRule(address string) error {
	switch {
	case address == "":
		return broken("write unix:///path/to/socket", "the path of the socket is empty")
	case strings.HasPrefix(address, "@"):
		return nil
	case !path.IsAbs(address) || strings.HasSuffix(address, "/"):
		return broken("write unix:///path/to/socket", "%q is not an absolute path of a file", address)
	}
	return nil
}

func durationRule(d *durationpb.Duration) error {
	switch t := d.AsDuration(); {
	case t < time.Millisecond:
		return broken("write 1ms or more", "%s is shorter than 1ms", t)
	case t%time.Millisecond != 0:
		return broken("write whole milliseconds", "%s is finer than a millisecond", t)
	}
	return nil
}

// labels checks labels that select or describe workloads.
func (c *checker) labels(at string, labels map[string]string) {
	for _, key := range sortedKeys(labels) {
		m := labelKey.FindStringSubmatch(key)
		if m == nil || len(m[1]) > prefixBytesMax || len(m[2]) > labelBytesMax {
			c.errorf(child(at, key), "keys are [prefix/]name with letters, digits, -, _ and .", "%q is not the key of a label", key)
		}
		if !labelValue.MatchString(labels[key]) {
			c.errorf(child(at, key), "values have letters, digits, -, _ and .", "%q is not the value of a label", labels[key])
		}
	}
}

// selectorLabels checks the labels of a selector, and warns of an empty one.
func (c *checker) selectorLabels(at, field string, labels map[string]string, scope string) {
	if len(labels) == 0 {
		c.warnf(at, "add labels, or remove the selector", "the selector has no labels: %s", scope)
	}
	for _, key := range sortedKeys(labels) {
		if key == "" {
			c.errorf(at+"."+field, "write the key", "a label without a key, of value %q", labels[key])
		}
		if strings.Contains(key, "*") || strings.Contains(labels[key], "*") {
			c.errorf(child(at+"."+field, key), "selectors compare exactly; name the value", "wildcard in %q=%q", key, labels[key])
		}
	}
}

// exportTo checks the namespaces that see an object.
func (c *checker) exportTo(entries []string, allowNone, withSelector bool) {
	const at = "spec.exportTo"
	var seen []string
	for i, e := range entries {
		path, key := index("spec", "exportTo", i), e
		if e == "." {
			key = c.meta.Namespace
		}
		switch {
		case slices.Contains(seen, key):
			c.errorf(path, "remove it", "%q stands twice", e)
			continue
		case key == "~" && !allowNone:
			c.errorf(path, `use "." to keep it within its namespace`, `"~" (nobody) is for ServiceEntry only`)
			continue
		case key != "*" && key != "." && key != "~" && !isLabel(key):
			c.errorf(path, `use ".", "*" or the name of a namespace`, "%q is not a namespace", e)
			continue
		}
		seen = append(seen, key)
	}
	if withSelector && len(seen) > 0 && (len(seen) > 1 || seen[0] != c.meta.Namespace) {
		c.errorf(at, `write exportTo: ["."]`, "with a workloadSelector the rule can't be exported beyond its own namespace")
	}
	if len(entries) > 1 && slices.Contains(seen, "*") {
		c.errorf(at, "remove the others", `"*" (everybody) can't stand beside other namespaces`)
	}
	if len(entries) > 1 && slices.Contains(seen, "~") {
		c.errorf(at, "remove the others", `"~" (nobody) can't stand beside other namespaces`)
	}
}

// destination checks where a route leads.
func (c *checker) destination(at string, d *networking.Destination) {
	if d == nil {
		return
	}
	if d.Host == "*" {
		c.errorf(at+".host", "name the service", `a destination can't be "*"`)
	} else {
		c.check(at+".host", wildcardDomain(d.Host))
	}
	if d.Subset != "" && !isLabel(d.Subset) {
		c.errorf(at+".subset", "names have letters, digits and -", "%q is not the name of a subset", d.Subset)
	}
	if d.Port != nil {
		c.check(at+".port", portRule(int64(d.Port.Number)))
	}
}

// regex checks an expression with the compiler that the proxy uses, and with Istio's limit.
func (c *checker) regex(at, expression string) {
	if len(expression) > regexBytesMax {
		c.errorf(at, "split it into several matches", "the regular expression has %d bytes, Istio's limit is %d", len(expression), regexBytesMax)
		return
	}
	if _, err := match.Compile(expression); err != nil {
		c.errorf(at, "the syntax is RE2's: https://github.com/google/re2/wiki/Syntax", "%s", err)
	}
}
