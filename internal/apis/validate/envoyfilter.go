package validate

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/match"
)

const proxyVersionBytesMax = 1024

// envoyFilter checks the frame of each patch. The patch itself is Envoy's configuration, which this room does not know.
func (c *checker) envoyFilter(f *networking.EnvoyFilter) {
	c.warnf("spec", "prefer other kinds where they will do", "EnvoyFilter exposes Envoy's internals, which may change at any time")
	if f.WorkloadSelector != nil {
		c.selectorLabels("spec.workloadSelector", "labels", f.WorkloadSelector.Labels, "it takes every workload of the namespace")
	}
	for i, p := range f.ConfigPatches {
		at := index("spec", "configPatches", i)
		switch {
		case p == nil:
			c.errorf(at, "remove it", "the patch is empty")
		case p.Match != nil && (p.Match.Context == networking.EnvoyFilter_WAYPOINT) != (p.Match.GetWaypoint() != nil) && p.Match.ObjectTypes != nil:
			c.errorf(at+".match", "match by waypoint", "context WAYPOINT and a match by waypoint go together only")
		case p.GetMatch().GetContext() == networking.EnvoyFilter_WAYPOINT:
			if n := p.Match.GetWaypoint().GetPortNumber(); n != 0 {
				c.check(at+".match.waypoint.portNumber", portRule(int64(n)))
			}
		case p.ApplyTo == networking.EnvoyFilter_INVALID:
			c.errorf(at, "add applyTo", "applyTo is missing")
		case p.Patch == nil:
			c.errorf(at, "add patch", "patch is missing")
		case p.Patch.Operation == networking.EnvoyFilter_Patch_INVALID:
			c.errorf(at+".patch", "add operation", "operation is missing")
		case p.Patch.Operation != networking.EnvoyFilter_Patch_REMOVE && p.Patch.Value == nil:
			c.errorf(at+".patch", "add value", "operation %s needs a value", p.Patch.Operation)
		default:
			c.patchMatch(at, p)
		}
	}
}

func (c *checker) patchMatch(at string, p *networking.EnvoyFilter_EnvoyConfigObjectPatch) {
	if v := p.GetMatch().GetProxy().GetProxyVersion(); len(v) > proxyVersionBytesMax {
		c.warnf(at+".match.proxy.proxyVersion", "shorten it", "proxyVersion has more than %d characters and is ignored", proxyVersionBytesMax)
	} else if _, err := match.CompileSearch(v); err != nil {
		c.errorf(at+".match.proxy.proxyVersion", "the syntax is RE2's", "%s", err)
	}
	if p.GetMatch().GetObjectTypes() == nil {
		return
	}
	wrong := func(want string) {
		c.errorf(at+".match", "match by "+want, "applyTo %s goes with a match by %s only", p.ApplyTo, want)
	}
	switch p.ApplyTo {
	case networking.EnvoyFilter_LISTENER, networking.EnvoyFilter_FILTER_CHAIN, networking.EnvoyFilter_NETWORK_FILTER, networking.EnvoyFilter_HTTP_FILTER:
		if p.Match.GetListener() == nil {
			wrong("listener")
			return
		}
		c.filterMatch(at+".match.listener.filterChain.filter", p, p.Match.GetListener().GetFilterChain().GetFilter())
	case networking.EnvoyFilter_ROUTE_CONFIGURATION, networking.EnvoyFilter_VIRTUAL_HOST, networking.EnvoyFilter_HTTP_ROUTE:
		if p.Match.GetRouteConfiguration() == nil {
			wrong("routeConfiguration")
		}
	case networking.EnvoyFilter_CLUSTER:
		if p.Match.GetCluster() == nil {
			wrong("cluster")
		}
	}
}

func (c *checker) filterMatch(at string, p *networking.EnvoyFilter_EnvoyConfigObjectPatch, f *networking.EnvoyFilter_ListenerMatch_FilterMatch) {
	if f == nil {
		return
	}
	if p.ApplyTo == networking.EnvoyFilter_LISTENER || p.ApplyTo == networking.EnvoyFilter_FILTER_CHAIN {
		c.warnf(at, "remove it", "a match by filter has no effect with applyTo %s", p.ApplyTo)
	}
	managers := []string{"envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"}
	switch {
	case f.Name == "":
		c.errorf(at, "add name", "the filter has no name")
	case f.SubFilter == nil:
	case p.ApplyTo != networking.EnvoyFilter_HTTP_FILTER:
		c.errorf(at+".subFilter", "remove it", "subFilter goes with applyTo HTTP_FILTER only")
	case !slices.Contains(managers, f.Name):
		c.errorf(at+".subFilter", "match filter "+managers[0], "subFilter goes with filter %s only", managers[0])
	case f.SubFilter.Name == "":
		c.errorf(at+".subFilter", "add name", "the subfilter has no name")
	}
}
