package validate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"

	"github.com/tullemesh/tulle/internal/match"
)

const (
	serviceAccountsMax     = 16 // Istio's limits
	serviceAccountBytesMax = 320
)

func portKey(port uint32) string { return strconv.FormatUint(uint64(port), 10) }

func (c *checker) authorizationPolicy(p *security.AuthorizationPolicy) {
	c.targets(p.Selector, p.TargetRef, p.TargetRefs)
	custom, deny := p.Action == security.AuthorizationPolicy_CUSTOM, p.Action == security.AuthorizationPolicy_DENY
	switch {
	case (custom || deny) && len(p.Rules) == 0:
		c.errorf("spec", "add rules; [{}] means every request", "action %s without rules never applies", p.Action)
	case custom && p.GetProvider().GetName() == "":
		c.errorf("spec", "add provider.name", "action CUSTOM needs a provider")
	}
	if p.GetProvider() != nil && !custom {
		c.errorf("spec.provider", "write action: CUSTOM", "provider is for action CUSTOM, found %s", p.Action)
	}
	for i, r := range p.Rules {
		at := index("spec", "rules", i)
		if r == nil {
			c.errorf(at, "write {} for every request", "the rule is empty")
			continue
		}
		if custom {
			c.customRule(at, r)
		}
		c.authorizationRule(at, r, deny)
	}
}

// sourceField is a list of a source with the form of its values.
type sourceField struct {
	name   string
	values []string
	check  func(string) error
	tcp    bool // works without HTTP
	custom bool // works with action CUSTOM
}

func sourceFields(s *security.Source) []sourceField {
	return []sourceField{
		{"principals", s.GetPrincipals(), notEmpty, true, false},
		{"notPrincipals", s.GetNotPrincipals(), notEmpty, true, false},
		{"requestPrincipals", s.GetRequestPrincipals(), notEmpty, false, false},
		{"notRequestPrincipals", s.GetNotRequestPrincipals(), notEmpty, false, false},
		{"namespaces", s.GetNamespaces(), notEmpty, true, false},
		{"notNamespaces", s.GetNotNamespaces(), notEmpty, true, false},
		{"ipBlocks", s.GetIpBlocks(), ipRule, true, true},
		{"notIpBlocks", s.GetNotIpBlocks(), ipRule, true, true},
		{"remoteIpBlocks", s.GetRemoteIpBlocks(), ipRule, true, true},
		{"notRemoteIpBlocks", s.GetNotRemoteIpBlocks(), ipRule, true, true},
		{"serviceAccounts", s.GetServiceAccounts(), serviceAccountRule, true, false},
		{"notServiceAccounts", s.GetNotServiceAccounts(), serviceAccountRule, true, false},
		{"trustDomains", s.GetTrustDomains(), trustDomainRule, false, false},
		{"notTrustDomains", s.GetNotTrustDomains(), trustDomainRule, false, false},
	}
}

func notEmpty(v string) error {
	if v == "" {
		return broken("remove it", "the value is empty")
	}
	return nil
}

// ipRule is for an address or a range, as Istio reads them: without zones in ranges.
func ipRule(v string) error {
	if strings.Contains(v, "/") {
		if _, err := netip.ParsePrefix(v); err != nil {
			return broken("write a range such as 10.1.0.0/16", "%q is not a CIDR range", v)
		}
		return nil
	}
	return addressRule(v)
}

func serviceAccountRule(v string) error {
	const hint = "write name or namespace/name"
	namespace, name, found := strings.Cut(v, "/")
	switch {
	case v == "":
		return notEmpty(v)
	case strings.Contains(v, "*"):
		return broken(hint, "%q: a service account can't be a wildcard", v)
	case len(v) > serviceAccountBytesMax:
		return broken(hint, "the service account has more than %d characters", serviceAccountBytesMax)
	case found && (namespace == "" || name == "" || strings.Contains(name, "/")):
		return broken(hint, "%q is not a service account", v)
	}
	return nil
}

func wildcardRule(v string) error {
	if n := strings.Count(v, "*"); n > 1 || n == 1 && !strings.HasPrefix(v, "*") && !strings.HasSuffix(v, "*") {
		return broken("write one wildcard at the start or at the end", "%q: misplaced wildcard", v)
	}
	return notEmpty(v)
}

func trustDomainRule(v string) error {
	if strings.Contains(v, "/") {
		return broken("write the trust domain only, such as cluster.local", "%q: a trust domain has no slash", v)
	}
	return wildcardRule(v)
}

func (c *checker) authorizationRule(at string, r *security.Rule, deny bool) {
	fromTCP, from, toTCP, to := false, false, false, false
	for i, f := range r.From {
		path := index(at, "from", i)
		if f.GetSource() == nil {
			c.errorf(path, "add source", "the origin has no source")
			continue
		}
		from = true
		fromTCP = c.source(path+".source", f.Source) || fromTCP
	}
	for i, t := range r.To {
		path := index(at, "to", i)
		if t.GetOperation() == nil {
			c.errorf(path, "add operation", "the target has no operation")
			continue
		}
		to = true
		toTCP = c.operation(path+".operation", t.Operation) || toTCP
	}
	for i, w := range r.When {
		c.condition(index(at, "when", i), w)
	}
	if deny && (from && !to && !fromTCP || to && !toTCP) {
		c.warnf(at, "add to.operation.ports", "the rule uses attributes of HTTP only, so it denies all TCP traffic of the workloads it selects")
	}
}

// source reports whether it has fields that work without HTTP.
func (c *checker) source(at string, s *security.Source) (tcp bool) {
	set := false
	for _, f := range sourceFields(s) {
		set = set || len(f.values) > 0
		tcp = tcp || f.tcp && len(f.values) > 0
		for i, v := range f.values {
			c.check(index(at, f.name, i), f.check(v))
		}
		if strings.HasSuffix(strings.ToLower(f.name), "serviceaccounts") && len(f.values) > serviceAccountsMax {
			c.errorf(at+"."+f.name, "write several sources", "%d service accounts, the limit is %d", len(f.values), serviceAccountsMax)
		}
	}
	if !set {
		c.errorf(at, "remove it, or fill it", "the source is empty")
	}
	accounts := len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0
	if accounts && len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 {
		c.errorf(at, "keep one of them", "serviceAccounts can't stand beside namespaces or principals")
	}
	return tcp
}

func (c *checker) operation(at string, o *security.Operation) (tcp bool) {
	set := false
	for _, f := range []struct {
		name   string
		values []string
		check  func(string) error
	}{
		{"ports", o.Ports, textPort}, {"notPorts", o.NotPorts, textPort},
		{"methods", o.Methods, notEmpty}, {"notMethods", o.NotMethods, notEmpty},
		{"hosts", o.Hosts, notEmpty}, {"notHosts", o.NotHosts, notEmpty},
		{"paths", o.Paths, pathRule}, {"notPaths", o.NotPaths, pathRule},
	} {
		set = set || len(f.values) > 0
		for i, v := range f.values {
			c.check(index(at, f.name, i), f.check(v))
		}
	}
	if !set {
		c.errorf(at, "remove it, or fill it", "the operation is empty")
	}
	return len(o.Ports)+len(o.NotPorts) > 0
}

func textPort(v string) error {
	if n, err := strconv.ParseUint(v, 10, 32); err != nil || n > portMax {
		return broken(`write a number as text: "8080"`, "%q is not a port", v)
	}
	return nil
}

// pathRule checks a path; what holds an operator must be a template that can be run.
func pathRule(v string) error {
	if v == "" {
		return notEmpty(v)
	}
	const hint = "operators are whole segments: /api/{*}/items/{**}"
	if !match.HasTemplate(v) {
		if strings.ContainsAny(v, "{}") {
			return broken(hint, "%q: a brace that is no operator", v)
		}
		return nil
	}
	if _, err := match.NewTemplate("/" + strings.Trim(v, "/")); err != nil { // Istio does not mind slashes at the ends
		return broken(hint, "%s", err)
	}
	return nil
}

func (c *checker) condition(at string, w *security.Condition) {
	key := w.GetKey()
	switch {
	case key == "":
		c.errorf(at, "add key, such as request.headers[x-user]", "the condition has no key")
		return
	case len(w.Values) == 0 && len(w.NotValues) == 0:
		c.errorf(at, "add values or notValues", "condition %q compares with nothing", key)
		return
	}
	check, err := attribute(key)
	if err != nil {
		c.check(at+".key", err)
		return
	}
	for i, v := range w.Values {
		c.check(index(at, "values", i), check(v))
	}
	for i, v := range w.NotValues {
		c.check(index(at, "notValues", i), check(v))
	}
}

// attribute is the rule for the values of a condition's key.
func attribute(key string) (func(string) error, error) {
	const hint = "see the conditions of AuthorizationPolicy"
	for _, prefix := range []string{"request.headers", "request.auth.claims", "experimental.envoy.filters."} {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if open := strings.IndexByte(key, '['); !strings.HasSuffix(key, "]") || open <= 0 || open >= len(key)-2 {
			return nil, broken("the form is "+prefix+"[name]", "%q is not the key of a condition", key)
		}
		return notEmpty, nil
	}
	switch key {
	case "source.ip", "remote.ip", "destination.ip":
		return ipRule, nil
	case "source.serviceAccount":
		return serviceAccountRule, nil
	case "source.trustDomain":
		return wildcardRule, nil
	case "destination.port":
		return textPort, nil
	case "source.namespace", "source.principal", "request.auth.principal", "request.auth.audiences", "request.auth.presenter", "connection.sni":
		return notEmpty, nil
	case "destination.namespace":
		return nil, broken("use metadata.namespace", "%s is replaced by the policy's own namespace", key)
	case "destination.name", "destination.user":
		return nil, broken(hint, "%s is gone since v1alpha1", key)
	}
	if strings.HasPrefix(key, "destination.labels") {
		return nil, broken("use selector.matchLabels", "%s is replaced by the policy's selector", key)
	}
	return nil, broken(hint, "%q is not the key of a condition", key)
}

// customRule checks what action CUSTOM can't decide before its provider is asked.
func (c *checker) customRule(at string, r *security.Rule) {
	const hint = "remove it, or use action ALLOW or DENY"
	for i, f := range r.From {
		for _, field := range sourceFields(f.GetSource()) {
			if !field.custom && len(field.values) > 0 {
				c.errorf(index(at, "from", i)+".source."+field.name, hint, "%s does not go with action CUSTOM", field.name)
			}
		}
	}
	for i, w := range r.When {
		key := w.GetKey()
		if slices.Contains([]string{"source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal"}, key) || strings.HasPrefix(key, "request.auth.") {
			c.errorf(index(at, "when", i)+".key", hint, "%s does not go with action CUSTOM", key)
		}
	}
}
