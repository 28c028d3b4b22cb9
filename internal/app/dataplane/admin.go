package dataplane

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/admin"
	"github.com/tullemesh/tulle/internal/proxy/engine"
	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/wire"
)

// The methods below are what the admin port sees and does (admin.Proxy).

// State implements admin.Proxy.
func (p *Proxy) State() admin.State {
	s := p.state.Load().(admin.State)
	if s == admin.Live && p.unhealthy.Load() {
		return admin.Draining // Envoy: ServerInfo.state
	}
	return s
}

// FailHealth implements admin.Proxy.
func (p *Proxy) FailHealth(fails bool) { p.unhealthy.Store(fails) }

// Started implements admin.Proxy.
func (p *Proxy) Started() time.Time { return p.started }

// Node implements admin.Proxy.
func (p *Proxy) Node() (id, cluster string, metadata json.RawMessage) {
	return p.node.GetId(), p.node.GetCluster(), p.metadata()
}

// Resources implements admin.Proxy.
func (p *Proxy) Resources(typeURL string) []admin.Resource {
	if typeURL == wire.SecretType {
		return nil // they hold keys
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Collect(maps.Values(p.resources[typeURL]))
	if typeURL == wire.RouteType {
		for i := range out {
			out[i] = withHosts(out[i], p.resources[wire.VirtualHostType])
		}
	}
	slices.SortFunc(out, func(a, b admin.Resource) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// withHosts is a route configuration with the virtual hosts that came on their
// own, as Envoy's admin port shows it.
func withHosts(r admin.Resource, hosts map[string]admin.Resource) admin.Resource {
	var table routev3.RouteConfiguration
	if err := r.Body.UnmarshalTo(&table); err != nil || table.GetVhds() == nil {
		return r
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		var host routev3.VirtualHost
		if strings.HasPrefix(name, r.Name+"/") && hosts[name].Body.UnmarshalTo(&host) == nil {
			table.VirtualHosts = append(table.VirtualHosts, &host)
		}
	}
	merged, err := wire.NewResource(r.Name, &table)
	if err != nil {
		return r
	}
	r.Resource = merged
	return r
}

// Rejected implements admin.Proxy.
func (p *Proxy) Rejected() []admin.Rejection {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []admin.Rejection
	for _, byName := range p.rejected {
		out = slices.AppendSeq(out, maps.Values(byName))
	}
	slices.SortFunc(out, func(a, b admin.Rejection) int {
		return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Clusters implements admin.Proxy.
func (p *Proxy) Clusters() []admin.Cluster {
	all := p.engine.Live().All()
	out := make([]admin.Cluster, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, p.cluster(all[name]))
	}
	return out
}

func (p *Proxy) cluster(c *cluster.Cluster) admin.Cluster {
	spec := c.Spec()
	out := admin.Cluster{Name: c.Name, AddedBy: "via_api", Limits: admin.Limits{
		Connections: spec.MaxConnections, Pending: spec.MaxPending, Requests: spec.MaxRequests, Retries: spec.MaxRetries}}
	if spec.Kind == cluster.EDS {
		out.Assignment = cmp.Or(spec.EDSName, spec.Name)
	}
	p.mu.Lock()
	if p.resources[wire.ClusterType][c.Name].Static {
		out.AddedBy = "static"
	}
	p.mu.Unlock()
	for _, m := range c.Members() {
		up := m.Host.Upstream()
		if up == nil {
			continue
		}
		e := admin.Endpoint{Address: up.Pipe, Health: healthText(m.Health), Weight: m.Weight,
			Connections: uint64(up.Counts.ConnTotal.Load()), ConnectFails: uint64(up.Counts.ConnFail.Load()), ActiveConnections: uint64(up.Counts.ConnActive.Load()),
			Requests: uint64(up.Counts.Requests.Load()), Errors: uint64(up.Counts.RequestErrors.Load()), Successes: uint64(up.Counts.RequestOKs.Load()),
			Timeouts: uint64(up.Counts.RequestTimeouts.Load()), ActiveRequests: uint64(max(m.Host.Active.Load(), 0))}
		if up.Pipe == "" {
			e.Address = up.Addr.String()
		}
		if info := up.Info(); info != nil {
			e.Hostname = info.Hostname
			e.Region, e.Zone, e.SubZone, e.Priority = info.Locality.Region, info.Locality.Zone, info.Locality.SubZone, info.Locality.Priority
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

func healthText(h cluster.Health) string {
	switch h {
	case cluster.Unhealthy:
		return "UNHEALTHY"
	case cluster.Draining:
		return "DRAINING"
	case cluster.Degraded:
		return "DEGRADED"
	}
	return "HEALTHY"
}

// Listeners implements admin.Proxy.
func (p *Proxy) Listeners() []admin.Listener {
	bound := p.engine.Listening()
	var out []admin.Listener
	for _, l := range p.engine.Config().Listeners() {
		row := admin.Listener{Name: l.Spec().Name}
		for _, a := range l.Spec().Addresses {
			if at, ok := bound[a]; ok {
				row.Addresses = append(row.Addresses, at)
			}
		}
		if len(row.Addresses) > 0 {
			out = append(out, row)
		}
	}
	return out
}

// Bound is the address at which a listener accepts; false when it doesn't.
func (p *Proxy) Bound(name string) (netip.AddrPort, bool) {
	for _, l := range p.Listeners() {
		if l.Name == name {
			return l.Addresses[0], true
		}
	}
	return netip.AddrPort{}, false
}

// Secrets implements admin.Proxy.
func (p *Proxy) Secrets() []admin.Secret {
	p.mu.Lock()
	all := maps.Clone(p.resources[wire.SecretType])
	p.mu.Unlock()
	var out []admin.Secret
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := admin.Secret{Name: name, Serial: all[name].Version, Updated: all[name].Updated}
		if leaf, ok := p.engine.Secrets().Certificate(name); ok {
			s.Serial, s.From, s.To, s.DNS = leaf.SerialNumber.Text(16), leaf.NotBefore, leaf.NotAfter, leaf.DNSNames
			if len(leaf.URIs) == 1 {
				s.URI = leaf.URIs[0].String()
			}
		}
		out = append(out, s)
	}
	return out
}

// WriteMetrics implements admin.Proxy.
func (p *Proxy) WriteMetrics(w io.Writer) error {
	p.engine.Live().Observe()
	return errors.Join(p.metrics.WritePrometheus(w), observe.WriteRuntime(w))
}

// Drain implements admin.Proxy.
func (p *Proxy) Drain(d admin.Drain) { p.engine.DrainListeners(engine.ListenerDrain(d)) }

// Quit implements admin.Proxy.
func (p *Proxy) Quit() { p.quitOnce.Do(func() { close(p.quit) }) }

// Level implements admin.Proxy.
func (p *Proxy) Level() slog.Level { return p.options.Level.Level() }

// SetLevel implements admin.Proxy.
func (p *Proxy) SetLevel(l slog.Level) { p.options.Level.Set(l) }

// openLog opens an access log's path. Standard output is the command's.
func (p *Proxy) openLog(path string) (io.WriteCloser, error) {
	if path == "/dev/stdout" && p.options.Stdout != nil {
		return access.KeepOpen(p.options.Stdout), nil
	}
	return access.OpenFile(path)
}
