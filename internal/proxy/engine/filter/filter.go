// Package filter defines what an HTTP filter is: compiled configuration (Spec)
// and per-route overrides (RouteConfig). The order of filters is the order of
// the connection manager's list. Filters decide by pure functions over facts;
// those that must wait return Block and cost a goroutine.
package filter

import "github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"

// Spec is one configured HTTP filter of a connection manager; exactly one of
// Authz and GRPCWeb is set. Inert filters are not in the list at all.
type Spec struct {
	// Name is the filter's name in the connection manager, e.g.
	// "envoy.filters.http.rbac".
	Name string
	// Authz is Envoy's RBAC filter.
	Authz *authz.Policies
	// GRPCWeb is Envoy's gRPC-Web filter, which has no configuration.
	GRPCWeb bool
	// Disabled by default; a route may enable it.
	Disabled bool
}

// RouteConfig overrides a filter for a route.
type RouteConfig struct {
	Disabled bool
	// Authz replaces the policies; nil with Disabled false keeps them.
	Authz *authz.Policies
}
