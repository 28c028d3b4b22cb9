package compile

import (
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// retiredCluster is a removed cluster with the endpoints that it had.
type retiredCluster struct {
	cluster    *entry[*cluster.Spec]
	assignment *entry[*cluster.Assignment]
}

// retire remembers clusters that are removed. A server removes a cluster in the
// same breath as it sends routes that no longer use it; those routes may still
// wait for the endpoints of their new clusters, and until then the old routes
// are live.
func (b *Builder) retire(names []string) {
	for _, name := range names {
		e := b.clusters[name]
		if e == nil {
			continue
		}
		r := retiredCluster{cluster: e}
		if eds, ok := assignmentName(e.value); ok {
			r.assignment = b.assignments[eds]
		}
		b.retired[name] = r
	}
}

// keepRetired adds the removed clusters that superseded routes still use, and
// forgets the others: a current route to a removed cluster is a named error.
func (b *Builder) keepRetired(parts *generation.Parts) {
	if len(b.retired) == 0 {
		return
	}
	used := b.usedBySuperseded()
	for name, r := range b.retired {
		if parts.Clusters[name] != nil || !used[name] {
			delete(b.retired, name)
			continue
		}
		parts.Clusters[name] = r.cluster.value
		addSecrets(parts.Secrets, r.cluster.inline)
		if eds, ok := assignmentName(r.cluster.value); ok && r.assignment != nil && parts.Assignments[eds] == nil {
			parts.Assignments[eds] = r.assignment.value
		}
	}
}

// usedBySuperseded are the clusters of live tables and hosts whose accepted
// version is another one.
func (b *Builder) usedBySuperseded() map[string]bool {
	used := map[string]bool{}
	add := func(name string) bool {
		used[name] = true
		return true
	}
	for name, e := range b.liveTables {
		if b.tables[name] != e {
			e.value.Clusters(add)
		}
	}
	for name, e := range b.liveHosts {
		if b.hosts[name] != e {
			e.value.Clusters(add)
		}
	}
	return used
}

// hostReady is tableReady for a virtual host that came on its own.
func (b *Builder) hostReady(h *router.VirtualHost) bool {
	for name := range h.Clusters {
		if !b.clusterReady(name) {
			return false
		}
	}
	return true
}
