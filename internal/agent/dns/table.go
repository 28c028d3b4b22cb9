package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
)

// Entry is what a host name means: the message NameInfo of Istio's name table (istio.networking.nds.v1).
type Entry struct {
	// IPs are the addresses to answer: the service's, or those of all endpoints of a headless one.
	IPs []netip.Addr
	// Registry is where the host comes from; only hosts of Kubernetes have short names.
	Registry string
	// ShortName and Namespace are the first labels of such a host.
	ShortName, Namespace string
}

// RegistryKubernetes is the Registry of hosts with short names.
const RegistryKubernetes = "Kubernetes"

// Client is whose names a table answers: short names mean services of its namespace first.
type Client struct {
	// Namespace is the workload's.
	Namespace string
	// Domain is the cluster's, such as cluster.local.
	Domain string
	// Search are the search domains of its resolver. A resolver that finds no answer for name.search1 asks for name alone at last, after
	// useless queries; so the table answers name.search1 for every name that it has.
	Search []string
}

// SearchDomains are those of a pod (Kubernetes, "DNS for Services and Pods").
func SearchDomains(namespace, domain string) []string {
	return []string{namespace + ".svc." + domain, "svc." + domain, domain}
}

// Table answers host names. It is immutable.
type Table struct {
	addresses map[string][]netip.Addr // by canonical name: lower case, final dot; wildcards as "*.rest."
	aliases   map[string]string       // name with a search domain → name
}

// NewTable builds a table from host names, which may begin with a wildcard label.
func NewTable(hosts map[string]Entry, c Client) (*Table, error) {
	t := &Table{addresses: map[string][]netip.Addr{}, aliases: map[string]string{}}
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		e := hosts[host]
		ips := make([]netip.Addr, 0, len(e.IPs))
		for _, ip := range e.IPs {
			if !ip.IsValid() || ip.Zone() != "" {
				return nil, fmt.Errorf("host %s has the address %q, which cannot be answered", host, ip)
			}
			ips = append(ips, ip.Unmap())
		}
		for i, name := range names(host, e, c) {
			// A written host wins over the short name of another one.
			if _, taken := t.addresses[name]; taken && i > 0 {
				continue
			}
			if !isName(name) {
				return nil, fmt.Errorf("host %q is no host name", host)
			}
			t.addresses[name] = ips
		}
	}
	for name := range t.addresses {
		for _, s := range c.Search {
			if alias := name + canonical(s); !strings.HasPrefix(name, "*") && isName(alias) {
				t.aliases[alias] = name
			}
		}
	}
	if n := len(t.addresses) + len(t.aliases); n > limit.DNSTableHostsMax {
		return nil, fmt.Errorf("%d names, the limit is %d", n, limit.DNSTableHostsMax)
	}
	return t, nil
}

// names are the host and, for a service of Kubernetes, what may stand for it as in a pod: name.namespace, name.namespace.svc, and name
// alone in its own namespace.
func names(host string, e Entry, c Client) []string {
	all := []string{canonical(host)}
	if e.Registry != RegistryKubernetes || e.ShortName == "" || e.Namespace == "" {
		return all
	}
	short := strings.ToLower(e.ShortName) + "." + strings.ToLower(e.Namespace)
	all = append(all, short+".", short+".svc.")
	if c.Domain != "" {
		all = append(all, short+".svc."+canonical(c.Domain))
	}
	if e.Namespace == c.Namespace {
		all = append(all, canonical(e.ShortName))
	}
	return all
}

// Lookup finds a name. The alias is the name that a search domain was taken from, empty when the name itself is in the table; found
// reports whether the table knows the name, with addresses or without.
func (t *Table) Lookup(name string) (ips []netip.Addr, alias string, found bool) {
	if t == nil {
		return nil, "", false
	}
	name = canonical(name)
	if ips, found = t.addresses[name]; found {
		return ips, "", true
	}
	if alias, found = t.aliases[name]; found {
		return t.addresses[alias], alias, true
	}
	// The longest wildcard wins, as in Envoy's and Istio's matching of hosts.
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok || after == "" {
			return nil, "", false
		}
		if ips, found = t.addresses["*."+after]; found {
			return ips, "", true
		}
		rest = after
	}
}

// Len is the number of names that the table knows.
func (t *Table) Len() int { return len(t.addresses) + len(t.aliases) }

func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") + "." }

// isName tells a name that fits into a DNS message (RFC 1035 §2.3.4: labels up to 63 bytes, 255 in all with the length bytes).
func isName(canonical string) bool {
	if len(canonical) > 254 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(canonical, "."), ".") {
		if label == "" || len(label) > 63 || strings.ContainsAny(label, " \t\r\n\\\"") {
			return false
		}
	}
	return true
}
