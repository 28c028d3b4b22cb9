package validate

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (c *checker) httpRoute(at string, r *networking.HTTPRoute, delegate, gatewayRoute bool) {
	if r == nil {
		c.errorf(at, "remove it", "the route is empty")
		return
	}
	c.routeShape(at, r, delegate)
	for i, m := range r.Match {
		if m != nil {
			c.httpMatch(index(at, "match", i), m)
		}
	}
	c.headers(at+".headers", r.Headers)
	c.cors(at+".corsPolicy", r.CorsPolicy)
	c.fault(at+".fault", r.Fault)
	c.mirrors(at, r)
	c.redirect(at+".redirect", r.Redirect, r.Match)
	c.directResponse(at+".directResponse", r.DirectResponse)
	c.retries(at+".retries", r.Retries)
	c.rewrite(at, r)
	total := int64(0)
	for i, d := range r.Route {
		path := index(at, "route", i)
		c.headers(path+".headers", d.GetHeaders())
		c.weighted(path, d.GetDestination(), d.GetWeight(), gatewayRoute)
		total += int64(d.GetWeight())
	}
	c.weights(at, len(r.Route), total)
	c.duration(at+".timeout", r.Timeout)
}

// routeShape checks what may stand beside what.
func (c *checker) routeShape(at string, r *networking.HTTPRoute, delegate bool) {
	if r.Delegate != nil && !delegate {
		if r.Redirect != nil {
			c.errorf(at+".redirect", "remove it", "a route that delegates can't redirect")
		}
		if len(r.Route) > 0 {
			c.errorf(at+".route", "remove it", "a route that delegates has no destinations")
		}
		return
	}
	if r.Delegate != nil {
		c.errorf(at+".delegate", "remove it", "a delegate can't delegate further")
	}
	action := ""
	switch {
	case r.Redirect != nil:
		action = "redirect"
	case r.DirectResponse != nil:
		action = "directResponse"
	case len(r.Route) == 0:
		c.errorf(at, "add route, redirect or directResponse", "the route leads nowhere")
	}
	if action != "" {
		const hint = "remove one of them"
		if len(r.Route) > 0 {
			c.errorf(at+".route", hint, "route can't stand beside %s", action)
		}
		if r.Fault != nil {
			c.errorf(at+".fault", hint, "fault can't stand beside %s", action)
		}
		if r.Rewrite != nil {
			c.errorf(at+".rewrite", hint, "rewrite can't stand beside %s", action)
		}
		if r.DirectResponse != nil && action == "redirect" {
			c.errorf(at+".directResponse", hint, "directResponse can't stand beside redirect")
		}
	}
	if r.Mirror != nil && len(r.Mirrors) > 0 {
		c.errorf(at+".mirror", "move it into mirrors", "mirror can't stand beside mirrors")
	}
}

func (c *checker) httpMatch(at string, m *networking.HTTPMatchRequest) {
	for _, name := range sortedKeys(m.Headers) {
		path := child(at+".headers", name)
		c.check(path, matchedHeader(name))
		c.stringMatch(path, m.Headers[name])
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		path := child(at+".withoutHeaders", name)
		c.check(path, matchedHeader(name))
		if m.WithoutHeaders[name].GetRegex() != "*" { // Istio's word for "whatever the value"
			c.stringMatch(path, m.WithoutHeaders[name])
		}
	}
	if uri, ok := m.GetUri().GetMatchType().(*networking.StringMatch_Regex); ok {
		c.matchRegex(at+".uri.regex", uri.Regex)
	}
	c.stringMatch(at+".scheme", m.Scheme)
	c.stringMatch(at+".method", m.Method)
	c.stringMatch(at+".authority", m.Authority)
	for _, name := range sortedKeys(m.QueryParams) {
		c.stringMatch(child(at+".queryParams", name), m.QueryParams[name])
	}
	if m.Port != 0 {
		c.check(at+".port", portRule(int64(m.Port)))
	}
	c.labels(at+".sourceLabels", m.SourceLabels)
	c.gatewayNames(at, m.Gateways, false)
	if m.SourceNamespace != "" && !isLabel(m.SourceNamespace) {
		c.errorf(at+".sourceNamespace", "names have letters, digits and -", "%q is not a namespace", m.SourceNamespace)
	}
}

func (c *checker) stringMatch(at string, m *networking.StringMatch) {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Prefix:
		if t.Prefix == "" {
			c.errorf(at+".prefix", "remove the match, or write the prefix", "the prefix is empty, so it would match everything")
		}
	case *networking.StringMatch_Regex:
		c.matchRegex(at+".regex", t.Regex)
	}
}

func (c *checker) matchRegex(at, expression string) {
	if expression == "" {
		c.errorf(at, "remove the match, or write the expression", "the regular expression is empty")
		return
	}
	c.regex(at, expression)
}

// headers checks the operations on headers of requests and responses.
func (c *checker) headers(at string, h *networking.Headers) {
	for _, side := range []struct {
		path      string
		ops       *networking.Headers_HeaderOperations
		authority bool
	}{{at + ".request", h.GetRequest(), true}, {at + ".response", h.GetResponse(), false}} {
		for field, values := range map[string]map[string]string{"add": side.ops.GetAdd(), "set": side.ops.GetSet()} {
			for _, name := range sortedKeys(values) {
				path := child(side.path+"."+field, name)
				c.check(path, setHeader(name, side.authority))
				c.check(path, headerValue(values[name]))
			}
		}
		for i, name := range side.ops.GetRemove() {
			c.check(index(side.path, "remove", i), setHeader(name, false))
		}
	}
}

func (c *checker) cors(at string, p *networking.CorsPolicy) {
	if p == nil {
		return
	}
	for i, o := range p.AllowOrigins {
		path := index(at, "allowOrigins", i)
		if o.GetExact() == "" && o.GetPrefix() == "" && o.GetRegex() == "" {
			c.errorf(path, "write exact, prefix or regex", "the origin is empty")
		} else if re := o.GetRegex(); re != "" {
			c.regex(path+".regex", re)
		}
	}
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "*"}
	for i, m := range p.AllowMethods {
		if !slices.Contains(methods, m) {
			c.errorf(index(at, "allowMethods", i), "use one of "+strings.Join(methods, ", "), "%q is not a method of HTTP", m)
		}
	}
	for field, names := range map[string][]string{"allowHeaders": p.AllowHeaders, "exposeHeaders": p.ExposeHeaders} {
		for i, name := range names {
			if name != "*" && !headerToken.MatchString(name) {
				c.errorf(index(at, field, i), tokenHint, "%q is not the name of a header", name)
			}
		}
	}
	if p.MaxAge != nil {
		c.duration(at+".maxAge", p.MaxAge)
		if p.MaxAge.Nanos > 0 {
			c.errorf(at+".maxAge", "write whole seconds", "%s is finer than a second", p.MaxAge.AsDuration())
		}
	}
}

// percentMin is the smallest share that Envoy can draw, as Istio says.
const percentMin = 0.0001

func (c *checker) percentage(at string, p *networking.Percent) {
	if v := p.GetValue(); v < 0 || v > 100 || v > 0 && v < percentMin {
		c.errorf(at, "write a percentage from 0.0001 to 100, or 0", "%v is not a percentage", v)
	}
}

func (c *checker) fault(at string, f *networking.HTTPFaultInjection) {
	if f == nil {
		return
	}
	if f.Abort == nil && f.Delay == nil {
		c.errorf(at, "add abort or delay", "the fault does nothing")
	}
	if a := f.Abort; a != nil {
		path := at + ".abort"
		c.percentage(path+".percentage", a.Percentage)
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			if !slices.Contains(grpcStatuses(), e.GrpcStatus) {
				c.errorf(path+".grpcStatus", "use one of "+strings.Join(grpcStatuses(), ", "), "%q is not a status of gRPC", e.GrpcStatus)
			}
		case *networking.HTTPFaultInjection_Abort_Http2Error:
			c.errorf(path+".http2Error", "use httpStatus or grpcStatus", "http2Error is not implemented by Istio")
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			c.check(path+".httpStatus", statusRule(int64(e.HttpStatus)))
		default:
			c.warnf(path, "add httpStatus or grpcStatus", "the abort has no status, so it does nothing")
		}
	}
	if d := f.Delay; d != nil {
		path := at + ".delay"
		c.percentage(path+".percentage", d.Percentage)
		switch t := d.HttpDelayType.(type) {
		case *networking.HTTPFaultInjection_Delay_FixedDelay:
			c.duration(path+".fixedDelay", t.FixedDelay)
		case *networking.HTTPFaultInjection_Delay_ExponentialDelay:
			c.errorf(path+".exponentialDelay", "use fixedDelay", "exponentialDelay is not implemented by Istio")
		}
	}
}

func grpcStatuses() []string {
	return []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
}

func statusRule(status int64) error {
	const first, last = 200, 600 // Istio lets 600 pass
	if status < first || status > last {
		return broken("write a status from 200 to 599", "%d is not a status of HTTP", status)
	}
	return nil
}

func (c *checker) mirrors(at string, r *networking.HTTPRoute) {
	share := func(path string, v float64) {
		if v < 0 || v > 100 {
			c.errorf(path, "write a percentage from 0 to 100", "%v is not a percentage", v)
		}
	}
	if p := r.MirrorPercent; p != nil { //nolint:staticcheck // deprecated, and that is what we say
		share(at+".mirrorPercent", float64(p.GetValue()))
		c.warnf(at+".mirrorPercent", "use mirrorPercentage", "mirrorPercent is deprecated")
	}
	share(at+".mirrorPercentage.value", r.MirrorPercentage.GetValue())
	c.destination(at+".mirror", r.Mirror)
	for i, m := range r.Mirrors {
		path := index(at, "mirrors", i)
		if m.GetDestination() == nil {
			c.errorf(path, "add destination with a host", "the mirror has no destination")
			continue
		}
		c.destination(path+".destination", m.Destination)
		share(path+".percentage.value", m.Percentage.GetValue())
	}
}

func (c *checker) redirect(at string, r *networking.HTTPRedirect, matches []*networking.HTTPMatchRequest) {
	const codeMin, codeMax = 300, 399
	switch {
	case r == nil:
		return
	case r.Uri != "" && r.PrefixRewrite != "":
		c.errorf(at+".prefixRewrite", "remove one of them", "prefixRewrite can't stand beside uri")
		return
	case r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.RedirectPort == nil && r.Scheme == "":
		c.errorf(at, "add uri, authority, scheme or port", "the redirect changes nothing, so it would loop")
		return
	}
	if r.PrefixRewrite != "" {
		for _, m := range matches {
			if _, prefix := m.GetUri().GetMatchType().(*networking.StringMatch_Prefix); m.GetUri() != nil && !prefix {
				c.errorf(at+".prefixRewrite", "match uri by prefix", "prefixRewrite needs matches by prefix")
				return
			}
		}
	}
	if r.RedirectCode != 0 && (r.RedirectCode < codeMin || r.RedirectCode > codeMax) {
		c.errorf(at+".redirectCode", "write 301, 302, 303, 307 or 308", "%d is not the status of a redirect", r.RedirectCode)
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		c.errorf(at+".scheme", `write "http" or "https"`, "%q is not a scheme", r.Scheme)
	}
	if r.GetPort() > 0 {
		c.check(at+".port", portRule(int64(r.GetPort())))
	}
}

func (c *checker) directResponse(at string, r *networking.HTTPDirectResponse) {
	if r == nil {
		return
	}
	switch size := max(len(r.GetBody().GetString_()), len(r.GetBody().GetBytes())); {
	case size > bodyBytesMax:
		c.errorf(at+".body", "serve it from a service", "the body has %d bytes, the limit is %d", size, bodyBytesMax)
	case size > bodyBytesGreat:
		c.warnf(at+".body", "serve it from a service", "the body has %d bytes, which every proxy will hold", size)
	}
	c.check(at+".status", statusRule(int64(r.Status)))
}

func retryConditions() []string {
	return []string{"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers",
		"envoy-ratelimited", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
}

func (c *checker) retries(at string, r *networking.HTTPRetry) {
	if r == nil {
		return
	}
	switch {
	case r.Attempts < 0:
		c.errorf(at+".attempts", "write 0 or more", "attempts %d is negative", r.Attempts)
	case r.Attempts == 0 && (r.PerTryTimeout != nil || r.RetryOn != "" || r.RetryRemoteLocalities != nil):
		c.errorf(at, "set attempts, or remove the rest", "the retries are configured, but attempts is 0")
	}
	c.duration(at+".perTryTimeout", r.PerTryTimeout)
	c.duration(at+".backoff", r.Backoff)
	if r.RetryOn == "" {
		return
	}
	for word := range strings.SplitSeq(r.RetryOn, ",") {
		status, _ := strconv.Atoi(word)
		if http.StatusText(status) == "" && !slices.Contains(retryConditions(), word) {
			c.errorf(at+".retryOn", "use one of "+strings.Join(retryConditions(), ", ")+", or a status", "%q is not a condition for a retry", word)
		}
	}
}

func (c *checker) rewrite(at string, r *networking.HTTPRoute) {
	current := ""
	if w := r.Rewrite; w != nil {
		current = w.Authority
		switch x := w.UriRegexRewrite; {
		case w.Uri != "" && x != nil:
			c.errorf(at+".rewrite.uriRegexRewrite", "remove one of them", "uriRegexRewrite can't stand beside uri")
		case w.Uri == "" && x == nil && w.Authority == "":
			c.errorf(at+".rewrite", "add uri, uriRegexRewrite or authority", "the rewrite changes nothing")
		case x == nil:
		case x.Match == "" || x.Rewrite == "":
			c.errorf(at+".rewrite.uriRegexRewrite", "add match and rewrite", "match or rewrite is missing")
		default:
			c.regex(at+".rewrite.uriRegexRewrite.match", x.Match)
		}
	}
	for _, part := range []struct {
		field  string
		values map[string]string
	}{{"set", r.Headers.GetRequest().GetSet()}, {"add", r.Headers.GetRequest().GetAdd()}} {
		for _, name := range sortedKeys(part.values) {
			if !isAuthority(name) {
				continue
			}
			if current != "" {
				c.errorf(child(at+".headers.request."+part.field, name), "remove one of them", "the authority is set already, to %q", current)
				return
			}
			current = part.values[name]
		}
	}
}
