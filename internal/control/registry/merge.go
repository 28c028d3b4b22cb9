package registry

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
)

// conflict is a problem of an object, whose position is not joined yet.
type conflict struct {
	key     apis.Key
	path    string
	message string
	hint    string
	effect  string
}

// comparePrecedence orders the contributions to one host: Kubernetes first,
// then the oldest, then by name (Istio's order of services).
func comparePrecedence(a, b *contribution) int {
	if a.service.FromKubernetes != b.service.FromKubernetes {
		if a.service.FromKubernetes {
			return -1
		}
		return 1
	}
	return cmp.Or(a.service.Created.Compare(b.service.Created), a.object.Key.Compare(b.object.Key))
}

// merge makes one service of all contributions to a host in a namespace. The
// first wins. ServiceEntries that agree in everything but ports and addresses
// are joined, as Istio joins them in a sidecar's scope; others lose and are told.
func merge(list []*contribution) (*Service, []conflict) {
	winner := list[0].service
	out := winner
	var problems []conflict
	for _, c := range list[1:] {
		if !joins(winner, c.service) {
			problems = append(problems, conflict{
				key: c.object.Key, path: hostPath(c.object, c.service.Hostname),
				message: fmt.Sprintf("host %s is already defined by %s", c.service.Hostname, list[0].object.Key),
				hint:    "the oldest object of a namespace wins a host, a Kubernetes Service before any ServiceEntry; use another host",
				effect:  "ports, addresses and settings of this object do not count for the host; its endpoints join those of ports with the same number and name",
			})
			continue
		}
		if out == winner {
			copied := *winner
			copied.Ports = slices.Clone(winner.Ports)
			copied.Addresses = slices.Clone(winner.Addresses)
			out = &copied
		}
		for _, p := range c.service.Ports {
			if i := slices.IndexFunc(out.Ports, func(q Port) bool { return q.Number == p.Number }); i < 0 {
				out.Ports = append(out.Ports, p)
			} else if out.Ports[i].Protocol != p.Protocol || out.Ports[i].Name != p.Name {
				problems = append(problems, conflict{
					key: c.object.Key, path: hostPath(c.object, c.service.Hostname),
					message: fmt.Sprintf("port %d of host %s is already defined by %s as %s %s", p.Number, c.service.Hostname, list[0].object.Key, out.Ports[i].Name, out.Ports[i].Protocol),
					hint:    "give both objects the same name and protocol for the port",
					effect:  "the older definition of the port holds",
				})
			}
		}
		for _, a := range c.service.Addresses {
			if !slices.Contains(out.Addresses, a) {
				out.Addresses = append(out.Addresses, a)
			}
		}
	}
	return out, problems
}

func joins(a, b *Service) bool {
	return !a.FromKubernetes && !b.FromKubernetes && a.Resolution == b.Resolution && a.External == b.External && maps.Equal(a.Labels, b.Labels) &&
		maps.Equal(a.Selector, b.Selector) && slices.Equal(a.ExportTo, b.ExportTo)
}

func hostPath(o *apis.Object, host string) string {
	if entry, ok := o.Spec.(*networking.ServiceEntry); ok {
		for i, h := range entry.Hosts {
			if strings.EqualFold(h, host) {
				return fmt.Sprintf("spec.hosts[%d]", i)
			}
		}
	}
	return "metadata.name"
}

// complete fills in what depends on all services: allocated addresses and
// aliases. Published services are never edited: a changed one is a new value.
func complete(order []*unit) {
	targets := map[string]string{} // of aliases, by host
	for _, u := range order {
		if u.base.Resolution == Alias {
			targets[u.base.Hostname] = u.base.ExternalName
		}
	}
	auto := allocate(order)
	aliases := map[string][]string{}
	for host := range targets {
		if concrete, ok := follow(targets, host); ok {
			aliases[concrete] = append(aliases[concrete], host)
		}
	}
	for _, list := range aliases {
		slices.Sort(list)
	}
	for _, u := range order {
		u.publish(auto[u], aliases[u.base.Hostname])
	}
}

// follow walks aliases of aliases to the concrete host. A circle leads
// nowhere: Kubernetes answers NXDOMAIN for it.
func follow(targets map[string]string, host string) (string, bool) {
	at := host
	for range len(targets) + 1 {
		next, ok := targets[at]
		if !ok {
			return at, at != host
		}
		at = next
	}
	return "", false
}

// publish sets the service that readers see, the old pointer when it is equal.
func (u *unit) publish(auto netip.Addr, aliases []string) {
	if u.service != nil && u.published == u.base && u.service.AutoAddress == auto && slices.Equal(u.service.Aliases, aliases) {
		return
	}
	u.published = u.base
	if !auto.IsValid() && len(aliases) == 0 {
		u.service = u.base
		return
	}
	copied := *u.base
	copied.AutoAddress, copied.Aliases = auto, aliases
	u.service = &copied
}
