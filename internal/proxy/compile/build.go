package compile

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
	"github.com/tullemesh/tulle/internal/wire"
)

// referenceWaitMax is how long a new version of a resource waits for what it
// references while its last version stays live (DESIGN, Generations; the same
// 15 s in which state of the world confirms absence).
const referenceWaitMax = 15 * time.Second

// Builder turns updates of resources into generations. It holds the accepted
// resources and which of them are live. It belongs to one goroutine.
type Builder struct {
	compiler *Compiler

	// Accepted resources by name.
	listeners   map[string]*entry[*listener.Matcher]
	tables      map[string]*entry[*router.Table]
	hosts       map[string]*entry[*router.VirtualHost] // by "table/host"
	clusters    map[string]*entry[*cluster.Spec]
	assignments map[string]*entry[*cluster.Assignment]
	secrets     map[string]*entry[*tls.Secret]

	// What is live of those that wait for references.
	liveListeners map[string]*entry[*listener.Matcher]
	liveTables    map[string]*entry[*router.Table]
	liveHosts     map[string]*entry[*router.VirtualHost]
	// retired clusters were removed while a live table or host, whose successor
	// still waits, sends to them.
	retired map[string]retiredCluster
	// merged are live tables with the virtual hosts that came on their own.
	merged map[string]*mergedTable
}

// entry is one accepted resource.
type entry[T any] struct {
	version string
	value   T
	inline  []*tls.Secret
	since   time.Time
}

// mergedTable is a table with further virtual hosts, and what it was made of.
type mergedTable struct {
	base  *router.Table
	hosts []*router.VirtualHost
	table *router.Table
}

// NewBuilder returns a builder without resources.
func NewBuilder(c *Compiler) *Builder {
	return &Builder{
		compiler: c, listeners: map[string]*entry[*listener.Matcher]{}, tables: map[string]*entry[*router.Table]{},
		hosts: map[string]*entry[*router.VirtualHost]{}, clusters: map[string]*entry[*cluster.Spec]{},
		assignments: map[string]*entry[*cluster.Assignment]{}, secrets: map[string]*entry[*tls.Secret]{},
		liveListeners: map[string]*entry[*listener.Matcher]{}, liveTables: map[string]*entry[*router.Table]{},
		liveHosts: map[string]*entry[*router.VirtualHost]{}, retired: map[string]retiredCluster{},
		merged: map[string]*mergedTable{},
	}
}

// Apply takes an update of one type of resource. It returns the resources that
// it refuses; their last versions stay. A resource of the same version as the
// accepted one costs nothing. Types that the proxy does not read are ignored.
func (b *Builder) Apply(typeURL string, added []*wire.Resource, removed []string, now time.Time) []wire.Rejection {
	c := b.compiler
	switch typeURL {
	case wire.ClusterType:
		b.retire(removed)
		return apply(b.clusters, added, removed, now, func(m *clusterv3.Cluster, hash string) (*cluster.Spec, []*tls.Secret, Report) {
			return c.Cluster(m, hash)
		})
	case wire.EndpointType:
		return apply(b.assignments, added, removed, now, func(m *endpointv3.ClusterLoadAssignment, hash string) (*cluster.Assignment, []*tls.Secret, Report) {
			a, r := c.Assignment(m, hash)
			return a, nil, r
		})
	case wire.ListenerType:
		rejections := apply(b.listeners, added, removed, now, func(m *listenerv3.Listener, hash string) (*listener.Matcher, []*tls.Secret, Report) {
			return c.Listener(m, hash)
		})
		return append(rejections, b.refuseSharedAddresses(added)...)
	case wire.RouteType:
		return apply(b.tables, added, removed, now, func(m *routev3.RouteConfiguration, hash string) (*router.Table, []*tls.Secret, Report) {
			t, r := c.Route(m, hash)
			return t, nil, r
		})
	case wire.VirtualHostType:
		return apply(b.hosts, added, removed, now, func(m *routev3.VirtualHost, _ string) (*router.VirtualHost, []*tls.Secret, Report) {
			h, r := c.VirtualHost(m)
			return h, nil, r
		})
	case wire.SecretType:
		return apply(b.secrets, added, removed, now, func(m *tlsv3.Secret, hash string) (*tls.Secret, []*tls.Secret, Report) {
			s, r := c.Secret(m, hash)
			return s, nil, r
		})
	}
	return nil
}

// message is a pointer to a protobuf message.
type message[M any] interface {
	*M
	proto.Message
}

func apply[M any, P message[M], T any](accepted map[string]*entry[T], added []*wire.Resource, removed []string, now time.Time,
	compile func(P, string) (T, []*tls.Secret, Report),
) []wire.Rejection {
	for _, name := range removed {
		delete(accepted, name)
	}
	var rejections []wire.Rejection
	for _, r := range added {
		if old := accepted[r.Name]; old != nil && old.version == r.Version {
			continue
		}
		m := P(new(M))
		if err := r.Body.UnmarshalTo(m); err != nil {
			rejections = append(rejections, wire.Rejection{Name: r.Name, Reason: "does not parse: " + err.Error()})
			continue
		}
		value, inline, report := compile(m, r.Version)
		if report.Refused() {
			rejections = append(rejections, wire.Rejection{Name: r.Name, Reason: report.Error()})
			continue
		}
		accepted[r.Name] = &entry[T]{version: r.Version, value: value, inline: inline, since: now}
	}
	return rejections
}

// Wants are the names that the accepted resources reference, by type URL: what
// has to be subscribed to. Names are sorted.
func (b *Builder) Wants() map[string][]string {
	names := map[string]map[string]bool{wire.EndpointType: {}, wire.RouteType: {}, wire.SecretType: {}}
	for _, e := range b.clusters {
		if name, ok := assignmentName(e.value); ok {
			names[wire.EndpointType][name] = true
		}
		for _, m := range e.value.TLS {
			if m.Spec != nil {
				wantSecrets(names[wire.SecretType], m.Spec.Validation, m.Spec.Certificate)
			}
		}
	}
	for _, e := range b.listeners {
		for c := range e.value.Spec().AllChains {
			if c.HTTP != nil && c.HTTP.Inline == nil {
				names[wire.RouteType][c.HTTP.RouteName] = true
			}
			if c.TLS != nil {
				wantSecrets(names[wire.SecretType], append([]string{c.TLS.Validation}, c.TLS.Certificates...)...)
			}
		}
	}
	out := map[string][]string{}
	for typeURL, set := range names {
		out[typeURL] = slices.Sorted(maps.Keys(set))
	}
	return out
}

func wantSecrets(set map[string]bool, names ...string) {
	for _, name := range names {
		if name != "" && !strings.HasPrefix(name, inlinePrefix) {
			set[name] = true
		}
	}
}

func assignmentName(s *cluster.Spec) (string, bool) {
	if s.Kind != cluster.EDS {
		return "", false
	}
	return cmp.Or(s.EDSName, s.Name), true
}

// Build makes a generation of what is ready. wait is when to build again
// because a resource still waits for references; 0: nothing waits.
func (b *Builder) Build(now time.Time) (cfg *generation.Config, wait time.Duration) {
	waitTables := promote(b.tables, b.liveTables, now, b.tableReady, func(string, *router.Table) bool { return true })
	waitHosts := promote(b.hosts, b.liveHosts, now, b.hostReady, b.unanswered)
	waitListeners := promote(b.listeners, b.liveListeners, now, b.listenerReady, func(string, *listener.Matcher) bool { return false })
	parts := generation.Parts{
		Tables: map[string]*router.Table{}, Clusters: map[string]*cluster.Spec{},
		Assignments: map[string]*cluster.Assignment{}, Secrets: map[string]*tls.Secret{},
	}
	for _, name := range slices.Sorted(maps.Keys(b.liveListeners)) {
		e := b.liveListeners[name]
		parts.Listeners = append(parts.Listeners, e.value)
		addSecrets(parts.Secrets, e.inline)
	}
	for name, e := range b.clusters {
		parts.Clusters[name] = e.value
		addSecrets(parts.Secrets, e.inline)
	}
	for name, e := range b.assignments {
		parts.Assignments[name] = e.value
	}
	b.keepRetired(&parts)
	for name, e := range b.secrets {
		parts.Secrets[name] = e.value
	}
	b.mergeHosts()
	for name, e := range b.liveTables {
		parts.Tables[name] = e.value
		if m := b.merged[name]; m != nil {
			parts.Tables[name] = m.table
		}
	}
	return generation.NewConfig(parts), earlier(earlier(waitTables, waitHosts), waitListeners)
}

func addSecrets(to map[string]*tls.Secret, list []*tls.Secret) {
	for _, s := range list {
		to[s.Name] = s
	}
}

func earlier(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// promote moves accepted resources that are ready to the live ones. What is not
// ready leaves its last version live, or, without one, goes live only when
// early says so, or after referenceWaitMax.
func promote[T any](accepted, live map[string]*entry[T], now time.Time, ready func(T) bool, early func(string, T) bool) (wait time.Duration) {
	for name := range live {
		if accepted[name] == nil {
			delete(live, name)
		}
	}
	for name, e := range accepted {
		old := live[name]
		if old == e {
			continue
		}
		left := e.since.Add(referenceWaitMax).Sub(now)
		if ready(e.value) || left <= 0 || (old == nil && early(name, e.value)) {
			live[name] = e
			continue
		}
		wait = earlier(wait, left)
	}
	return wait
}

// unanswered reports whether nothing live takes the domains of a new virtual
// host: it waits for no cluster then, since some of its routes are better than
// none.
func (b *Builder) unanswered(name string, h *router.VirtualHost) bool {
	table, ok := tableOf(name, b.liveTables)
	if !ok {
		return false
	}
	live := b.liveTables[table].value
	if m := b.merged[table]; m != nil {
		live = m.table
	}
	return !slices.ContainsFunc(h.Domains, func(domain string) bool { return live.Host([]byte(domain)) != nil })
}

// tableReady reports whether every cluster that the table references is there,
// with its endpoints.
func (b *Builder) tableReady(t *router.Table) bool {
	for name := range t.Clusters {
		if !b.clusterReady(name) {
			return false
		}
	}
	return true
}

func (b *Builder) clusterReady(name string) bool {
	e := b.clusters[name]
	if e == nil {
		return false
	}
	if eds, ok := assignmentName(e.value); ok {
		return b.assignments[eds] != nil
	}
	return true
}

// listenerReady reports whether the listener's route tables are live and its
// clusters there.
func (b *Builder) listenerReady(m *listener.Matcher) bool {
	for c := range m.Spec().AllChains {
		if c.HTTP != nil && c.HTTP.Inline == nil && b.liveTables[c.HTTP.RouteName] == nil {
			return false
		}
	}
	return true
}

// mergeHosts adds the virtual hosts that came on their own to their tables, and
// keeps the merged table while neither changes.
func (b *Builder) mergeHosts() {
	byTable := map[string][]*router.VirtualHost{}
	for _, name := range slices.Sorted(maps.Keys(b.liveHosts)) {
		if table, ok := tableOf(name, b.liveTables); ok {
			byTable[table] = append(byTable[table], b.liveHosts[name].value)
		}
	}
	for name := range b.merged {
		if len(byTable[name]) == 0 {
			delete(b.merged, name)
		}
	}
	for name, hosts := range byTable {
		base := b.liveTables[name].value
		if m := b.merged[name]; m != nil && m.base == base && slices.Equal(m.hosts, hosts) {
			continue
		}
		// Of two hosts that claim a domain the first by name keeps it: the table
		// enters them in order and leaves out only the later claim.
		table, _ := base.WithHosts(hosts...)
		b.merged[name] = &mergedTable{base: base, hosts: hosts, table: table}
	}
}

// tableOf finds the table of a virtual host's resource name, "table/host". A
// table's name may hold slashes itself, so the longest one wins.
func tableOf(resource string, tables map[string]*entry[*router.Table]) (string, bool) {
	for i := strings.LastIndexByte(resource, '/'); i > 0; i = strings.LastIndexByte(resource[:i], '/') {
		if tables[resource[:i]] != nil {
			return resource[:i], true
		}
	}
	return "", false
}

// OnDemand are the live or accepted route configurations whose virtual hosts
// come on their own (VHDS): what to subscribe virtual hosts by. Sorted.
func (b *Builder) OnDemand() []string {
	var out []string
	for name, e := range b.tables {
		if e.value.Options().OnDemand {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
