// Package generation is one generation of the proxy's configuration and what
// it decides. In come compiled parts; out comes a Config, and from it, by
// Decide, what happens to a connection and a request. Each stage of Decide is a
// function that the running proxy calls as bytes arrive, with a nil trace.
//
// A Config owns nothing and is shared by pointer; nothing here waits or does
// I/O. Read config.go first, then decide.go.
package generation

import (
	"net/netip"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// Config is one generation of the proxy's configuration: immutable, published
// by one pointer swap. Parts that did not change are the same pointers as in
// the generation before.
type Config struct {
	listeners   []*listener.Matcher // in the order of their names
	byName      map[string]*listener.Matcher
	byAddr      map[netip.AddrPort]*listener.Matcher
	tables      map[string]*router.Table
	clusters    map[string]*cluster.Spec
	assignments map[string]*cluster.Assignment
	secrets     map[string]*tls.Secret
}

// Parts are what a Config is made of. NewConfig takes the maps over: the caller
// does not write to them afterwards.
type Parts struct {
	// Listeners in the order of their names.
	Listeners []*listener.Matcher
	// Tables by route configuration name, Clusters by name.
	Tables   map[string]*router.Table
	Clusters map[string]*cluster.Spec
	// Assignments by EDS name, Secrets by SDS or synthetic name.
	Assignments map[string]*cluster.Assignment
	Secrets     map[string]*tls.Secret
}

// NewConfig builds a generation.
func NewConfig(p Parts) *Config {
	c := &Config{
		listeners: p.Listeners, tables: p.Tables, clusters: p.Clusters, assignments: p.Assignments, secrets: p.Secrets,
		byName: make(map[string]*listener.Matcher, len(p.Listeners)),
		byAddr: make(map[netip.AddrPort]*listener.Matcher, len(p.Listeners)),
	}
	for _, l := range p.Listeners {
		c.byName[l.Spec().Name] = l
		for _, a := range l.Spec().Addresses {
			a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			// Of two listeners at one address the one that accepts there wins; the
			// compiler reports the other.
			if old := c.byAddr[a]; old == nil || (!old.Spec().BindToPort && l.Spec().BindToPort) {
				c.byAddr[a] = l
			}
		}
	}
	return c
}

// Listeners are all listeners in the order of their names.
func (c *Config) Listeners() []*listener.Matcher { return c.listeners }

// Listener finds a listener by name, or nil.
func (c *Config) Listener(name string) *listener.Matcher { return c.byName[name] }

// Table finds a route configuration by name, or nil.
func (c *Config) Table(name string) *router.Table { return c.tables[name] }

// Tables are all route configurations by name; the map is read-only.
func (c *Config) Tables() map[string]*router.Table { return c.tables }

// Cluster finds a cluster by name, or nil.
func (c *Config) Cluster(name string) *cluster.Spec { return c.clusters[name] }

// Clusters are all clusters by name; the map is read-only.
func (c *Config) Clusters() map[string]*cluster.Spec { return c.clusters }

// Assignment finds the endpoints of a cluster, inline or by EDS, or nil when
// they have not come yet.
func (c *Config) Assignment(s *cluster.Spec) *cluster.Assignment {
	if s.Kind != cluster.EDS {
		return s.Endpoints
	}
	if s.EDSName != "" {
		return c.assignments[s.EDSName]
	}
	return c.assignments[s.Name]
}

// Secrets are all secrets by name; the map is read-only.
func (c *Config) Secrets() map[string]*tls.Secret { return c.secrets }

// At finds the listener that holds an address: the exact one, else the wildcard
// address of that port and address family, else nil.
func (c *Config) At(addr netip.AddrPort) *listener.Matcher {
	ip := addr.Addr().Unmap()
	if l := c.byAddr[netip.AddrPortFrom(ip, addr.Port())]; l != nil {
		return l
	}
	if ip.Is4() {
		if l := c.byAddr[netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())]; l != nil {
			return l
		}
	}
	// A dual-stack socket takes both families.
	return c.byAddr[netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())]
}

// HandOver finds the listener that judges a connection which l accepted: with
// UseOriginalDst the one at the original destination, else l itself.
func (c *Config) HandOver(l *listener.Matcher, original netip.AddrPort) *listener.Matcher {
	if !l.Spec().UseOriginalDst || !original.IsValid() {
		return l
	}
	if to := c.At(original); to != nil {
		return to
	}
	return l
}

// RouteTable is the route table of a connection manager: its inline one, or the
// one that RDS named; nil when that has not come yet.
func (c *Config) RouteTable(h *listener.HTTPManager) *router.Table {
	if h.Inline != nil {
		return h.Inline
	}
	return c.tables[h.RouteName]
}
