package message

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// routeContext is where rules become routes: the same rules give other routes
// on another port, gateway or proxy.
type routeContext struct {
	w *Writer
	r *view.Reader
	// port is what match.port means and the default of destinations.
	port int
	// gateway is "mesh" or "namespace/name".
	gateway string
	tls     bool // requests arrive by TLS
	grpc    bool // for a proxyless gRPC client
	// ports says which port a destination without one means; nil: port.
	ports func(host string) int
}

// routes turns rules into routes, in order; what can never be reached behind
// a route that takes everything is left out (as Istio does).
func (c *routeContext) routes(rules *model.Rules) []*routev3.Route {
	var out []*routev3.Route
	for _, rule := range rules.HTTP {
		matches := rule.Matches
		if len(matches) == 0 {
			matches = []*model.Match{nil}
		}
		for _, m := range matches {
			if !c.applies(m) {
				continue
			}
			rt := c.route(rules, rule, m)
			if rt == nil {
				continue
			}
			out = append(out, rt)
			if takesAll(rt.Match) {
				return out
			}
		}
	}
	return out
}

// applies evaluates the conditions on the proxy, which need no request.
func (c *routeContext) applies(m *model.Match) bool {
	if m == nil {
		return true
	}
	if m.Port != 0 && m.Port != c.port {
		return false
	}
	if len(m.Gateways) > 0 {
		// The sources of a match are those of sidecars (Istio ignores them
		// where gateways are named).
		return slices.Contains(m.Gateways, c.gateway)
	}
	return sourceApplies(c.r, m.SourceLabels, m.SourceNamespace)
}

func sourceApplies(r *view.Reader, labels map[string]string, namespace string) bool {
	if len(labels) > 0 && !r.Selected(labels) {
		return false
	}
	return namespace == "" || r.IsNamespace(namespace)
}

func (c *routeContext) route(rules *model.Rules, rule *model.Route, m *model.Match) *routev3.Route {
	origin := rule.Origin
	out := &routev3.Route{Name: rule.Name, Match: routeMatch(m)}
	if m != nil {
		origin = m.Origin
		if m.Name != "" {
			out.Name += "." + m.Name
		}
	}
	out.Metadata = metadata(rules.Origin, origin)
	reqAdd, authority := headersToAdd(rule.RequestHeaders)
	out.RequestHeadersToAdd = reqAdd
	out.RequestHeadersToRemove = headersToRemove(rule.RequestHeaders)
	out.ResponseHeadersToAdd, _ = headersToAdd(rule.ResponseHeaders)
	out.ResponseHeadersToRemove = headersToRemove(rule.ResponseHeaders)
	switch {
	case rule.Redirect != nil:
		out.Action = c.redirect(rule.Redirect)
	case rule.Direct != nil:
		out.Action = directResponse(rule.Direct)
	case len(rule.Destinations) > 0:
		c.forward(out, rule, authority)
	default:
		return nil
	}
	out.Decorator = &routev3.Decorator{Operation: c.operation(out, rules.Origin.Key.Name)}
	return out
}

// forward fills in the action of a route that leads to destinations.
func (c *routeContext) forward(out *routev3.Route, rule *model.Route, authority string) {
	action := &routev3.RouteAction{}
	c.setTimeout(action, rule.Timeout)
	out.Action = &routev3.Route_Route{Route: action}
	if rw := rule.Rewrite; rw != nil {
		switch {
		case rw.RegexMatch != "":
			action.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{
				Pattern: &matcherv3.RegexMatcher{Regex: rw.RegexMatch}, Substitution: rw.RegexSubst,
			}
		case rw.HasURI:
			action.PrefixRewrite = rw.URI
		}
		authority = cmp.Or(rw.Authority, authority)
	}
	if len(rule.Destinations) == 1 {
		d := &rule.Destinations[0]
		add, auth := headersToAdd(d.RequestHeaders)
		out.RequestHeadersToAdd = append(out.RequestHeadersToAdd, add...)
		out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, headersToRemove(d.RequestHeaders)...)
		add, _ = headersToAdd(d.ResponseHeaders)
		out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, add...)
		out.ResponseHeadersToRemove = append(out.ResponseHeadersToRemove, headersToRemove(d.ResponseHeaders)...)
		authority = cmp.Or(authority, auth)
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: c.clusterOf(d)}
	} else {
		action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: c.weighted(rule.Destinations)}
	}
	if authority != "" {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: authority}
	}
	action.RetryPolicy = c.w.retryPolicy(rule.Retries)
}

func (c *routeContext) weighted(ds []model.Destination) *routev3.WeightedCluster {
	out := &routev3.WeightedCluster{}
	for i := range ds {
		d := &ds[i]
		if d.Weight == 0 {
			continue
		}
		w := &routev3.WeightedCluster_ClusterWeight{Name: c.clusterOf(d), Weight: wrapperspb.UInt32(uint32(d.Weight))}
		var authority string
		w.RequestHeadersToAdd, authority = headersToAdd(d.RequestHeaders)
		w.RequestHeadersToRemove = headersToRemove(d.RequestHeaders)
		w.ResponseHeadersToAdd, _ = headersToAdd(d.ResponseHeaders)
		w.ResponseHeadersToRemove = headersToRemove(d.ResponseHeaders)
		if authority != "" {
			w.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: authority}
		}
		out.Clusters = append(out.Clusters, w)
	}
	return out
}

// clusterOf names the cluster of a destination. A destination without a port
// means the port of the listener, on a gateway the service's only one.
func (c *routeContext) clusterOf(d *model.Destination) string {
	port := d.Port
	if port == 0 {
		port = c.port
		if c.ports != nil {
			port = cmp.Or(c.ports(d.Host), c.port)
		}
	}
	host := d.Host
	if svc := c.r.Service(host); svc != nil && svc.Resolution == registry.Alias {
		host = svc.ExternalName
	}
	return wire.ClusterName(wire.Outbound, port, d.Subset, host)
}

// onlyPort is the port of a service that has one, else 0.
func onlyPort(svc *registry.Service) int {
	if svc == nil || len(svc.Ports) != 1 {
		return 0
	}
	return svc.Ports[0].Number
}

// setTimeout sets the whole-request timeout; 0 switches it off, which Envoy's
// own default of 15 s would not (VirtualService.http.timeout).
func (c *routeContext) setTimeout(a *routev3.RouteAction, d time.Duration) {
	a.Timeout = durationpb.New(d)
	if c.grpc {
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(d)}
		return
	}
	a.MaxGrpcTimeout = durationpb.New(d) // deprecated, and what Istio sends
}

func (c *routeContext) redirect(in *model.Redirect) *routev3.Route_Redirect {
	a := &routev3.RedirectAction{
		HostRedirect:         in.Authority,
		PathRewriteSpecifier: &routev3.RedirectAction_PathRedirect{PathRedirect: in.URI},
	}
	if in.PrefixRewrite != "" {
		a.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: in.PrefixRewrite}
	}
	if in.Scheme != "" {
		a.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: in.Scheme}
	}
	scheme := in.Scheme
	if scheme == "" {
		scheme = "http"
		if c.tls {
			scheme = "https"
		}
	}
	port := in.Port
	if in.PortFromRequest {
		// Routes are made for one port: it is the request's.
		port = c.port
	}
	if (in.PortFromRequest || in.Port != 0) && (port == 80 && scheme == "http" || port == 443 && scheme == "https") {
		port = 0
	}
	a.PortRedirect = uint32(port)
	switch in.Code {
	case 302:
		a.ResponseCode = routev3.RedirectAction_FOUND
	case 303:
		a.ResponseCode = routev3.RedirectAction_SEE_OTHER
	case 307:
		a.ResponseCode = routev3.RedirectAction_TEMPORARY_REDIRECT
	case 308:
		a.ResponseCode = routev3.RedirectAction_PERMANENT_REDIRECT
	}
	return &routev3.Route_Redirect{Redirect: a}
}

func directResponse(in *model.Direct) *routev3.Route_DirectResponse {
	a := &routev3.DirectResponseAction{Status: uint32(in.Status)}
	if len(in.Body) > 0 {
		a.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: in.Body}}
		if utf8.Valid(in.Body) {
			a.Body.Specifier = &corev3.DataSource_InlineString{InlineString: string(in.Body)}
		}
	}
	return &routev3.Route_DirectResponse{DirectResponse: a}
}

// operation describes a route for traces: "host:port/path", with the name of
// the rules where there is not one host.
func (c *routeContext) operation(rt *routev3.Route, name string) string {
	path := "/*"
	switch p := rt.GetMatch().GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		path = p.Prefix + "*"
	case *routev3.RouteMatch_Path:
		path = p.Path
	case *routev3.RouteMatch_SafeRegex:
		path = p.SafeRegex.GetRegex()
	}
	if _, port, _, host, ok := wire.ParseClusterName(rt.GetRoute().GetCluster()); ok {
		return host + ":" + strconv.Itoa(port) + path
	}
	return name + ":" + strconv.Itoa(c.port) + path
}

// defaultRoute is the route to a service that no rules mention.
func (c *routeContext) defaultRoute(svc *registry.Service, port int) *routev3.Route {
	a := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: wire.ClusterName(wire.Outbound, port, "", svc.Hostname)},
		RetryPolicy:      c.w.retry,
		Timeout:          durationpb.New(0),
	}
	a.MaxGrpcTimeout = durationpb.New(0) // deprecated, and what Istio sends
	return &routev3.Route{
		Name: "default", Match: routeMatch(nil),
		Decorator: &routev3.Decorator{Operation: svc.Hostname + ":" + strconv.Itoa(port) + "/*"},
		Action:    &routev3.Route_Route{Route: a},
	}
}

// headersToAdd writes set and add operations; a changed Host is returned, for
// Envoy does not change it as a header.
func headersToAdd(ops model.HeaderOps) (out []*corev3.HeaderValueOption, authority string) {
	one := func(h model.Header, action corev3.HeaderValueOption_HeaderAppendAction) {
		if strings.EqualFold(h.Name, ":authority") || strings.EqualFold(h.Name, "host") {
			authority = cmp.Or(authority, h.Value)
		}
		if internalHeader(h.Name) {
			return
		}
		out = append(out, &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: action,
		})
	}
	for _, h := range ops.Set {
		one(h, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	}
	for _, h := range ops.Add {
		one(h, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	}
	return out, authority
}

func headersToRemove(ops model.HeaderOps) []string {
	var out []string
	for _, name := range ops.Remove {
		if !internalHeader(name) {
			out = append(out, name)
		}
	}
	return out
}

// internalHeader reports whether a name is part of the request line or of
// Host, which Envoy refuses to change as a header.
func internalHeader(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}
