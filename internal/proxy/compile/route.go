package compile

import (
	"fmt"
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// bodyBytesMax is Envoy's default of max_direct_response_body_size_bytes.
const bodyBytesMax = 4096

func (v *conv) table(m *routev3.RouteConfiguration, path, hash string) *router.Table {
	bodyMax := bodyBytesMax
	if n := m.GetMaxDirectResponseBodySizeBytes(); n != nil {
		bodyMax = int(n.GetValue())
	}
	if s := m.GetVhds(); s != nil {
		v.wantADS(s.GetConfigSource(), join(path, "vhds.config_source"))
	}
	hosts := make([]*router.VirtualHost, len(m.GetVirtualHosts()))
	for i, h := range m.GetVirtualHosts() {
		hosts[i] = v.virtualHost(h, fmt.Sprintf("%s[%d]", join(path, "virtual_hosts"), i), bodyMax)
	}
	t, err := router.NewTable(m.GetName(), hosts, router.Options{
		IgnorePort:       m.GetIgnorePortInHostMatching(),
		OnDemand:         m.GetVhds() != nil,
		MostSpecificWins: m.GetMostSpecificHeaderMutationsWins(),
		RequestHeaders:   v.headerOps(m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove(), join(path, "request_headers_to_add")),
		ResponseHeaders:  v.headerOps(m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove(), join(path, "response_headers_to_add")),
		Hash:             hash,
	})
	if err != nil {
		v.report.invalid(join(path, "virtual_hosts"), err.Error())
	}
	return t
}

func (v *conv) virtualHost(m *routev3.VirtualHost, path string, bodyMax int) *router.VirtualHost {
	h := &router.VirtualHost{
		Name:            m.GetName(),
		Domains:         m.GetDomains(),
		AttemptCount:    m.GetIncludeRequestAttemptCount(),
		RequestHeaders:  v.headerOps(m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove(), join(path, "request_headers_to_add")),
		ResponseHeaders: v.headerOps(m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove(), join(path, "response_headers_to_add")),
		PerFilter:       v.perFilter(m.GetTypedPerFilterConfig(), join(path, "typed_per_filter_config")),
		Origin:          origin(m.GetMetadata()),
	}
	if len(h.Domains) == 0 {
		v.report.invalid(join(path, "domains"), "at least one is needed")
	}
	switch m.GetRequireTls() {
	case routev3.VirtualHost_NONE:
	case routev3.VirtualHost_EXTERNAL_ONLY:
		h.RequireTLS = router.TLSExternalOnly
	case routev3.VirtualHost_ALL:
		h.RequireTLS = router.TLSAll
	default:
		v.report.invalid(join(path, "require_tls"), "no such requirement")
	}
	for i, r := range m.GetRoutes() {
		h.Routes = append(h.Routes, v.route(r, fmt.Sprintf("%s[%d]", join(path, "routes"), i), bodyMax))
	}
	return h
}

func (v *conv) route(m *routev3.Route, path string, bodyMax int) *router.Route {
	r := &router.Route{
		Name:            m.GetName(),
		Match:           v.routeMatch(m.GetMatch(), join(path, "match")),
		RequestHeaders:  v.headerOps(m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove(), join(path, "request_headers_to_add")),
		ResponseHeaders: v.headerOps(m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove(), join(path, "response_headers_to_add")),
		PerFilter:       v.perFilter(m.GetTypedPerFilterConfig(), join(path, "typed_per_filter_config")),
		Origin:          origin(m.GetMetadata()),
	}
	switch a := m.GetAction().(type) {
	case *routev3.Route_Route:
		r.Forward = v.forward(a.Route, join(path, "route"))
	case *routev3.Route_Redirect:
		r.Redirect = v.redirect(a.Redirect, join(path, "redirect"))
	case *routev3.Route_DirectResponse:
		r.Direct = v.direct(a.DirectResponse, join(path, "direct_response"), bodyMax)
	case *routev3.Route_NonForwardingAction:
		r.NonForwarding = true
	default:
		v.report.invalid(path, "a route needs an action")
	}
	return r
}

func (v *conv) routeMatch(m *routev3.RouteMatch, path string) router.Match {
	out := router.Match{
		IgnoreCase: m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue(),
		GRPC:       m.GetGrpc() != nil,
		Path:       v.pathMatch(m, path),
	}
	for i, h := range m.GetHeaders() {
		out.Headers = append(out.Headers, v.header(h, fmt.Sprintf("%s.headers[%d]", path, i)))
	}
	for i, q := range m.GetQueryParameters() {
		out.Query = append(out.Query, v.query(q, fmt.Sprintf("%s.query_parameters[%d]", path, i)))
	}
	if f := m.GetRuntimeFraction(); f != nil {
		out.FractionNum, out.FractionDen = v.fraction(f.GetDefaultValue(), join(path, "runtime_fraction"))
	}
	return out
}

func (v *conv) fraction(f *typev3.FractionalPercent, path string) (num, den uint32) {
	switch f.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		den = 100
	case typev3.FractionalPercent_TEN_THOUSAND:
		den = 10_000
	case typev3.FractionalPercent_MILLION:
		den = 1_000_000
	default:
		v.report.invalid(join(path, "default_value.denominator"), "no such denominator")
	}
	return f.GetNumerator(), den
}

func (v *conv) pathMatch(m *routev3.RouteMatch, path string) router.PathMatch {
	var p router.PathMatch
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		p = router.PathMatch{Kind: router.PathPrefix, Value: s.Prefix}
	case *routev3.RouteMatch_Path:
		p = router.PathMatch{Kind: router.PathExact, Value: s.Path}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		p = router.PathMatch{Kind: router.PathSeparatedPrefix, Value: s.PathSeparatedPrefix}
		if !strings.HasPrefix(p.Value, "/") || strings.HasSuffix(p.Value, "/") {
			v.report.invalid(join(path, "path_separated_prefix"), "must begin with / and not end with it")
		}
	case *routev3.RouteMatch_SafeRegex:
		p = router.PathMatch{Kind: router.PathRegex, Value: s.SafeRegex.GetRegex(), Regex: v.regex(s.SafeRegex, join(path, "safe_regex"))}
	case *routev3.RouteMatch_ConnectMatcher_:
		p = router.PathMatch{Kind: router.PathConnect}
	case *routev3.RouteMatch_PathMatchPolicy:
		t, ok := v.unpacked[s.PathMatchPolicy.GetTypedConfig()].(*templatev3.UriTemplateMatchConfig)
		if !ok {
			v.report.refuse(join(path, "path_match_policy"), "only URI templates are supported")
			return p
		}
		compiled, err := match.NewTemplate(t.GetPathTemplate())
		if err != nil {
			v.report.invalid(join(path, "path_match_policy.typed_config.path_template"), err.Error())
		}
		p = router.PathMatch{Kind: router.PathTemplate, Value: t.GetPathTemplate(), Template: compiled}
	default:
		v.report.invalid(path, "a condition on the path is needed")
	}
	return p
}

func (v *conv) query(m *routev3.QueryParameterMatcher, path string) router.QueryMatch {
	q := router.QueryMatch{Name: m.GetName()}
	switch s := m.GetQueryParameterMatchSpecifier().(type) {
	case nil:
		q.Present = true
	case *routev3.QueryParameterMatcher_StringMatch:
		q.Value = v.text(s.StringMatch, join(path, "string_match"))
	case *routev3.QueryParameterMatcher_PresentMatch:
		q.Present = true
		if !s.PresentMatch {
			v.report.refuse(join(path, "present_match"), "asking for absence is not supported")
		}
	default:
		v.report.refuse(path, "condition is not supported")
	}
	return q
}

func (v *conv) redirect(m *routev3.RedirectAction, path string) *router.Redirect {
	d := &router.Redirect{
		Host: m.GetHostRedirect(), Port: int(v.port(m.GetPortRedirect(), join(path, "port_redirect"))),
		Path: m.GetPathRedirect(), PrefixRewrite: m.GetPrefixRewrite(),
		Scheme: m.GetSchemeRedirect(), HTTPSRedirect: m.GetHttpsRedirect(), StripQry: m.GetStripQuery(),
	}
	d.RegexRewrite, d.RegexSubst = v.regexRewrite(m.GetRegexRewrite(), join(path, "regex_rewrite"))
	switch m.GetResponseCode() {
	case routev3.RedirectAction_MOVED_PERMANENTLY:
		d.Status = http.StatusMovedPermanently
	case routev3.RedirectAction_FOUND:
		d.Status = http.StatusFound
	case routev3.RedirectAction_SEE_OTHER:
		d.Status = http.StatusSeeOther
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		d.Status = http.StatusTemporaryRedirect
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		d.Status = http.StatusPermanentRedirect
	default:
		v.report.invalid(join(path, "response_code"), "no such code")
	}
	return d
}

func (v *conv) direct(m *routev3.DirectResponseAction, path string, bodyMax int) *router.Direct {
	d := &router.Direct{Status: int(min(m.GetStatus(), statusMax))}
	if m.GetStatus() < statusMin || m.GetStatus() >= statusMax {
		v.report.invalid(join(path, "status"), fmt.Sprintf("%d is no status of a response", m.GetStatus()))
	}
	switch b := m.GetBody().GetSpecifier().(type) {
	case nil:
	case *corev3.DataSource_InlineString:
		d.Body = []byte(b.InlineString)
	case *corev3.DataSource_InlineBytes:
		d.Body = b.InlineBytes
	default:
		v.report.refuse(join(path, "body"), "only an inline body is supported")
	}
	if len(d.Body) > bodyMax {
		v.report.invalid(join(path, "body"), fmt.Sprintf("%d bytes, max_direct_response_body_size_bytes is %d", len(d.Body), bodyMax))
	}
	return d
}

// statusMin and statusMax bound the status of a direct response: [200, 600).
const statusMin, statusMax = 200, 600

// perFilter compiles overrides of filters.
func (v *conv) perFilter(m map[string]*anypb.Any, path string) map[string]filter.RouteConfig {
	out := make(map[string]filter.RouteConfig, len(m))
	for name, a := range m {
		at := fmt.Sprintf("%s[%q]", path, name)
		var c filter.RouteConfig
		inner := v.unpacked[a]
		if w, ok := inner.(*routev3.FilterConfig); ok {
			c.Disabled = w.GetDisabled()
			inner = v.unpacked[w.GetConfig()]
			if w.GetConfig() == nil {
				out[name] = c
				continue
			}
		}
		p, ok := inner.(*rbacv3.RBACPerRoute)
		if !ok {
			v.report.refuse(at, "this filter takes no configuration from a route")
			continue
		}
		if p.GetRbac() == nil {
			// Envoy: "If absent, RBAC is disabled for this route".
			c.Disabled = true
		} else {
			r := p.GetRbac()
			c.Authz = v.policies(r.GetRules(), r.GetShadowRules(), r.GetShadowRulesStatPrefix(), at+".rbac")
		}
		out[name] = c
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
