package router

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
)

// Options are a route configuration's settings beside its virtual hosts
// (Envoy: config.route.v3.RouteConfiguration).
type Options struct {
	// IgnorePort takes the port off the authority before hosts are compared.
	IgnorePort bool
	// OnDemand says that further virtual hosts can be asked for (VHDS).
	OnDemand bool
	// RequestHeaders and ResponseHeaders apply to every route.
	RequestHeaders, ResponseHeaders HeaderOps
	// MostSpecificWins applies header mutations from the table to the route
	// instead of from the route to the table.
	MostSpecificWins bool
	// Hash is of the resource's bytes.
	Hash string
}

// Table is a route configuration: immutable, safe for any number of readers.
type Table struct {
	name    string
	opts    Options
	hosts   []*VirtualHost
	domains match.HostTable[*VirtualHost]
	// any is the host of domain "*", or nil; alone says that no other domain
	// is there.
	any   *VirtualHost
	alone bool
}

// NewTable indexes hosts by their domains. Each domain belongs to one host
// (Envoy: "domains must be unique across all virtual hosts"), else the error is
// match.ErrTaken or match.ErrDomain.
func NewTable(name string, hosts []*VirtualHost, opts Options) (*Table, error) {
	t := &Table{name: name, opts: opts, hosts: hosts, alone: true}
	var errs []error
	for _, h := range hosts {
		for _, domain := range h.Domains {
			if err := t.domains.Add(domain, h); err != nil {
				errs = append(errs, fmt.Errorf("virtual host %s: %w", h.Name, err))
				continue
			}
			if domain == "*" {
				t.any = h
			} else {
				t.alone = false
			}
		}
	}
	return t, errors.Join(errs...)
}

// WithHosts is a table with further virtual hosts, as VHDS adds them. A host
// whose name is there already replaces the old one.
func (t *Table) WithHosts(more ...*VirtualHost) (*Table, error) {
	replaced := make(map[string]bool, len(more))
	for _, h := range more {
		replaced[h.Name] = true
	}
	hosts := make([]*VirtualHost, 0, len(t.hosts)+len(more))
	for _, h := range t.hosts {
		if !replaced[h.Name] {
			hosts = append(hosts, h)
		}
	}
	return NewTable(t.name, append(hosts, more...), t.opts)
}

// Name is the route configuration's name.
func (t *Table) Name() string { return t.name }

// Options are the table's settings.
func (t *Table) Options() Options { return t.opts }

// Hosts are the virtual hosts in the order of the configuration.
func (t *Table) Hosts() []*VirtualHost { return t.hosts }

// Host finds the virtual host for an authority in Envoy's order: exact, the
// longest suffix wildcard, the longest prefix wildcard, "*". It returns nil
// when there is none.
func (t *Table) Host(authority []byte) *VirtualHost {
	if t.alone {
		return t.any
	}
	if t.opts.IgnorePort {
		authority = withoutPort(authority)
	}
	if len(authority) == 0 {
		return nil
	}
	h, _ := t.domains.Find(authority)
	return h
}

// withoutPort takes ":port" off an authority; the colons of an IPv6 literal
// stand in brackets (RFC 3986 §3.2.2).
func withoutPort(authority []byte) []byte {
	i := bytes.LastIndexByte(authority, ':')
	if i < 0 || bytes.IndexByte(authority[i:], ']') >= 0 {
		return authority
	}
	return authority[:i]
}

// Clusters yields the name of every cluster that a route may forward to; a name
// may come several times.
func (t *Table) Clusters(yield func(string) bool) {
	for _, h := range t.hosts {
		for name := range h.Clusters {
			if !yield(name) {
				return
			}
		}
	}
}

// Clusters yields the name of every cluster that a route of the host may
// forward to; a name may come several times.
func (h *VirtualHost) Clusters(yield func(string) bool) {
	for _, r := range h.Routes {
		if r.Forward == nil {
			continue
		}
		for i := range r.Forward.Clusters {
			if !yield(r.Forward.Clusters[i].Cluster) {
				return
			}
		}
	}
}

// Result is what a table says about a request.
type Result struct {
	// Host is nil when no virtual host has the authority.
	Host *VirtualHost
	// Route is nil when no route of the host matches, or when RequireTLS.
	Route *Route
	// RequireTLS: the host wants TLS; the answer is a redirect to https.
	RequireTLS bool
	// Ask: the table lacks the host and can ask for it (VHDS); Host may still
	// hold the catch-all that answers when nobody knows the host.
	Ask bool
}

// Match finds the virtual host and the first route whose conditions hold. It
// allocates nothing when tr is nil.
func (t *Table) Match(req *fact.Request, tr *fact.Trace) Result {
	return t.MatchFor(req.Authority, req, tr)
}

// MatchFor is Match for a request that came to another authority than its own:
// the one of the tunnel that it is in.
func (t *Table) MatchFor(authority []byte, req *fact.Request, tr *fact.Trace) Result {
	host := t.Host(authority)
	if tr != nil {
		t.traceHosts(req, host, tr)
	}
	r := Result{Host: host, Ask: t.opts.OnDemand && (host == nil || host == t.any)}
	if host == nil {
		return r
	}
	if host.wantsTLS(req) {
		r.RequireTLS = true
		return r
	}
	r.Route = host.Match(req, tr)
	return r
}

// wantsTLS reports whether the host redirects this plaintext request (Envoy:
// VirtualHost.require_tls; the scheme is x-forwarded-proto's).
func (h *VirtualHost) wantsTLS(req *fact.Request) bool {
	if h.RequireTLS == TLSNone {
		return false
	}
	proto, present := req.Header("x-forwarded-proto")
	if !present {
		proto = req.Scheme
	}
	if string(proto) == "https" {
		return false
	}
	if h.RequireTLS == TLSExternalOnly {
		internal, _ := req.Header("x-envoy-internal")
		return string(internal) != "true"
	}
	return true
}

// Match finds the first route whose conditions hold, or nil.
func (h *VirtualHost) Match(req *fact.Request, tr *fact.Trace) *Route {
	for i, r := range h.Routes {
		if tr == nil {
			if r.Match.Holds(req) {
				return r
			}
			continue
		}
		why := r.Match.unmet(req)
		if why == "" {
			tr.Add(fact.Step{Stage: fact.StageRoute, Name: r.Label(i), Verdict: fact.Chosen, Reason: r.Match.String(), Origin: r.Origin})
			return r
		}
		tr.Add(fact.Step{Stage: fact.StageRoute, Name: r.Label(i), Verdict: fact.Skipped, Reason: why, Origin: r.Origin})
	}
	return nil
}

// Label names a route for people: its name, or its place.
func (r *Route) Label(i int) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("routes[%d]", i)
}

func (t *Table) traceHosts(req *fact.Request, chosen *VirtualHost, tr *fact.Trace) {
	for _, h := range t.hosts {
		step := fact.Step{Stage: fact.StageVirtualHost, Name: h.Name, Origin: h.Origin}
		switch {
		case h == chosen:
			step.Verdict, step.Reason = fact.Chosen, fmt.Sprintf("authority %q", req.Authority)
		case h == t.any:
			step.Verdict, step.Reason = fact.Skipped, "a more specific domain matches"
		default:
			step.Verdict, step.Reason = fact.Skipped, fmt.Sprintf("authority %q is not in %s", req.Authority, brief(h.Domains))
		}
		tr.Add(step)
	}
	if chosen == nil {
		tr.Add(fact.Step{Stage: fact.StageVirtualHost, Name: t.name, Verdict: fact.Failed,
			Reason: fmt.Sprintf("no virtual host has authority %q", req.Authority)})
	}
}

// brief shows the first few of a list.
func brief(list []string) string {
	const shown = 3
	if len(list) <= shown {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:shown], ", "), len(list)-shown)
}
