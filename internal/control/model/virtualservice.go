package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/match"
)

// virtualService is a VirtualService in our words, before delegates are merged.
type virtualService struct {
	rules *Rules
	roots bool // some route has a delegate
}

// delegateRef names the VirtualService that a route's rest is delegated to.
type delegateRef struct{ namespace, name string }

// ruleConverter carries what the parts of one object's conversion share.
type ruleConverter struct {
	key    apis.Key
	suffix string
	err    error // the first pattern that does not compile
}

// convertVirtualService puts a VirtualService into our words. The error is of
// a pattern that validation would have refused.
func convertVirtualService(o *apis.Object, spec *networking.VirtualService, mesh *Mesh) (*virtualService, error) {
	c := &ruleConverter{key: o.Key, suffix: mesh.DomainSuffix}
	r := &Rules{Origin: c.origin("spec"), Created: o.Created, Gateways: []string{MeshGateway}}
	for _, h := range spec.Hosts {
		r.Hosts = append(r.Hosts, c.host(h))
	}
	if len(spec.Gateways) > 0 {
		r.Gateways = c.gateways(spec.Gateways)
	}
	r.ExportTo = resolveExportTo(spec.ExportTo, mesh.VirtualServiceExportTo, o.Key.Namespace)
	vs := &virtualService{rules: r}
	for i, h := range spec.Http {
		route := c.route(h, fmt.Sprintf("spec.http[%d]", i))
		vs.roots = vs.roots || route.delegate != nil
		r.HTTP = append(r.HTTP, route)
	}
	for i, t := range spec.Tls {
		r.TLS = append(r.TLS, c.tlsRoute(t, fmt.Sprintf("spec.tls[%d]", i)))
	}
	for i, t := range spec.Tcp {
		r.TCP = append(r.TCP, c.tcpRoute(t, fmt.Sprintf("spec.tcp[%d]", i)))
	}
	return vs, c.err
}

func (c *ruleConverter) origin(path string) Origin { return Origin{Key: c.key, Path: path} }

func (c *ruleConverter) host(h string) string { return resolveHost(h, c.key.Namespace, c.suffix) }

// resolveHost makes a short name full, in the namespace of the object that
// says it. Names with a dot, wildcards and addresses stay as they are (Istio,
// VirtualService.hosts). Host names have no case.
func resolveHost(h, namespace, suffix string) string {
	h = strings.ToLower(h)
	if h == "" || h == "*" || strings.Contains(h, ".") {
		return h
	}
	if _, err := netip.ParseAddr(h); err == nil {
		return h
	}
	return h + "." + namespace + ".svc." + suffix
}

func (c *ruleConverter) gateways(names []string) []string {
	var out []string
	for _, name := range names {
		if g := resolveGateway(name, c.key.Namespace); !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// resolveGateway gives "namespace/name". The dotted form name.namespace is
// Istio's old one, and still read.
func resolveGateway(name, namespace string) string {
	if name == MeshGateway {
		return name
	}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		if ns == "." {
			return namespace + "/" + rest
		}
		return name
	}
	if short, rest, ok := strings.Cut(name, "."); ok {
		ns, _, _ := strings.Cut(rest, ".")
		return ns + "/" + short
	}
	return namespace + "/" + name
}

// resolveExportTo fills in the default and resolves "." to the namespace.
func resolveExportTo(list, otherwise []string, namespace string) []string {
	if len(list) == 0 {
		list = otherwise
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		if e == "." {
			e = namespace
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	slices.Sort(out)
	return out
}

func (c *ruleConverter) route(h *networking.HTTPRoute, path string) *Route {
	r := &Route{Name: h.Name, Origin: c.origin(path)}
	for i, m := range h.Match {
		r.Matches = append(r.Matches, c.match(m, path+".match["+strconv.Itoa(i)+"]"))
	}
	for i, d := range h.Route {
		at := path + ".route[" + strconv.Itoa(i) + "]"
		dest := c.destination(d.Destination, d.Weight, at)
		dest.RequestHeaders = headerOps(d.Headers.GetRequest())
		dest.ResponseHeaders = headerOps(d.Headers.GetResponse())
		r.Destinations = append(r.Destinations, dest)
	}
	if d := h.Delegate; d != nil {
		r.delegate = &delegateRef{namespace: d.Namespace, name: d.Name}
		if d.Namespace == "" {
			r.delegate.namespace = c.key.Namespace
		}
	}
	if h.Redirect != nil {
		r.Redirect = redirect(h.Redirect)
	}
	if h.DirectResponse != nil {
		r.Direct = direct(h.DirectResponse)
	}
	if w := h.Rewrite; w != nil {
		r.Rewrite = &Rewrite{URI: w.Uri, HasURI: w.Uri != "", Authority: w.Authority}
		if x := w.UriRegexRewrite; x != nil {
			r.Rewrite.RegexMatch, r.Rewrite.RegexSubst = x.Match, x.Rewrite
			_, err := match.CompileSearch(x.Match)
			c.fail(err)
		}
	}
	if h.Timeout != nil {
		r.Timeout, r.timeoutSet = h.Timeout.AsDuration(), true
	}
	if in := h.Retries; in != nil {
		r.Retries = &Retries{
			Attempts: int(in.Attempts), On: in.RetryOn, PerTryTimeout: in.PerTryTimeout.AsDuration(), Backoff: in.Backoff.AsDuration(),
			SameHosts: in.RetryIgnorePreviousHosts != nil && !in.RetryIgnorePreviousHosts.Value,
		}
	}
	r.headersSet = h.Headers != nil
	r.RequestHeaders = headerOps(h.Headers.GetRequest())
	r.ResponseHeaders = headerOps(h.Headers.GetResponse())
	return r
}

func (c *ruleConverter) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *ruleConverter) destination(d *networking.Destination, weight int32, path string) Destination {
	return Destination{
		Host: c.host(d.GetHost()), Subset: d.GetSubset(), Port: int(d.GetPort().GetNumber()), Weight: int(weight), Origin: c.origin(path),
	}
}

func redirect(r *networking.HTTPRedirect) *Redirect {
	out := &Redirect{URI: r.Uri, Authority: r.Authority, Scheme: r.Scheme, PrefixRewrite: r.PrefixRewrite, Code: int(r.RedirectCode), Port: int(r.GetPort())}
	if out.Code == 0 {
		out.Code = 301 // API documentation of HTTPRedirect.redirect_code
	}
	if p, ok := r.RedirectPort.(*networking.HTTPRedirect_DerivePort); ok {
		out.PortFromRequest = p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT
		out.PortFromProtocol = p.DerivePort == networking.HTTPRedirect_FROM_PROTOCOL_DEFAULT
	}
	return out
}

func direct(d *networking.HTTPDirectResponse) *Direct {
	out := &Direct{Status: int(d.Status)}
	switch b := d.Body.GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = []byte(b.String_)
	case *networking.HTTPBody_Bytes:
		out.Body = b.Bytes
	}
	return out
}

func headerOps(h *networking.Headers_HeaderOperations) HeaderOps {
	return HeaderOps{Set: headerList(h.GetSet()), Add: headerList(h.GetAdd()), Remove: slices.Clone(h.GetRemove())}
}

func headerList(m map[string]string) []Header {
	var out []Header
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, Header{Name: name, Value: m[name]})
	}
	return out
}

func (c *ruleConverter) match(m *networking.HTTPMatchRequest, path string) *Match {
	fold := match.CaseSensitive
	if m.IgnoreUriCase {
		fold = match.CaseIgnored
	}
	out := &Match{
		Name: m.Name, Origin: c.origin(path), IgnoreURICase: m.IgnoreUriCase, Port: int(m.Port),
		SourceLabels: m.SourceLabels, SourceNamespace: m.SourceNamespace, Gateways: c.gateways(m.Gateways),
		URI: c.text(m.Uri, fold), Scheme: c.text(m.Scheme, match.CaseSensitive),
		Method: c.text(m.Method, match.CaseSensitive), Authority: c.text(m.Authority, match.CaseSensitive),
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		out.Headers = append(out.Headers, HeaderMatch{Name: name, Value: c.header(m.Headers[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(m.WithoutHeaders)) {
		out.Headers = append(out.Headers, HeaderMatch{Name: name, Value: c.header(m.WithoutHeaders[name]), Invert: true})
	}
	for _, name := range slices.Sorted(maps.Keys(m.QueryParams)) {
		out.Query = append(out.Query, HeaderMatch{Name: name, Value: c.header(m.QueryParams[name])})
	}
	return out
}

// header is text, except that a condition which every value meets asks for presence.
func (c *ruleConverter) header(m *networking.StringMatch) *StringMatch {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		if t.Exact == "" {
			return nil
		}
	case *networking.StringMatch_Prefix:
		if t.Prefix == "" {
			return nil
		}
	case *networking.StringMatch_Regex:
		if t.Regex == "" || t.Regex == ".*" || t.Regex == "*" {
			return nil
		}
	}
	return c.text(m, match.CaseSensitive)
}

// text is a compiled StringMatch; nil asks nothing.
func (c *ruleConverter) text(m *networking.StringMatch, fold match.Case) *StringMatch {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return &StringMatch{Kind: Exact, Value: t.Exact, Compiled: match.Exact(t.Exact, fold)}
	case *networking.StringMatch_Prefix:
		if t.Prefix == "" {
			return nil // every value begins with it
		}
		compiled, err := match.Prefix(t.Prefix, fold)
		c.fail(err)
		return &StringMatch{Kind: Prefix, Value: t.Prefix, Compiled: compiled}
	case *networking.StringMatch_Regex:
		compiled, err := match.Regex(t.Regex)
		c.fail(err)
		return &StringMatch{Kind: Regex, Value: t.Regex, Compiled: compiled}
	}
	return nil
}

func (c *ruleConverter) tlsRoute(t *networking.TLSRoute, path string) *L4Route {
	r := &L4Route{Origin: c.origin(path)}
	for i, m := range t.Match {
		r.Matches = append(r.Matches, L4Match{
			SNIHosts: m.SniHosts, DestinationSubnets: c.subnets(m.DestinationSubnets), Port: int(m.Port), SourceLabels: m.SourceLabels,
			SourceNamespace: m.SourceNamespace, Gateways: c.gateways(m.Gateways), Origin: c.origin(path + ".match[" + strconv.Itoa(i) + "]"),
		})
	}
	for i, d := range t.Route {
		r.Destinations = append(r.Destinations, c.destination(d.Destination, d.Weight, path+".route["+strconv.Itoa(i)+"]"))
	}
	return r
}

func (c *ruleConverter) tcpRoute(t *networking.TCPRoute, path string) *L4Route {
	r := &L4Route{Origin: c.origin(path)}
	for i, m := range t.Match {
		r.Matches = append(r.Matches, L4Match{
			DestinationSubnets: c.subnets(m.DestinationSubnets), Port: int(m.Port), SourceLabels: m.SourceLabels,
			SourceNamespace: m.SourceNamespace, Gateways: c.gateways(m.Gateways), Origin: c.origin(path + ".match[" + strconv.Itoa(i) + "]"),
		})
	}
	for i, d := range t.Route {
		r.Destinations = append(r.Destinations, c.destination(d.Destination, d.Weight, path+".route["+strconv.Itoa(i)+"]"))
	}
	return r
}

func (c *ruleConverter) subnets(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		p, err := match.ParseCIDR(s)
		if err != nil {
			c.fail(err)
			continue
		}
		out = append(out, p)
	}
	return out
}
