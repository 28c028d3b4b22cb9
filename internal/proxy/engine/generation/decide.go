package generation

import (
	"fmt"
	"net/http"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// Outcome is what becomes of the traffic.
type Outcome string

// The outcomes.
const (
	Forward     Outcome = "forward"
	Direct      Outcome = "direct"
	Redirect    Outcome = "redirect"
	Deny        Outcome = "deny"
	Reject      Outcome = "reject"
	Passthrough Outcome = "passthrough"
	Blackhole   Outcome = "blackhole"
	// Conditional depends on something that only traffic can tell; Conditions
	// say on what, and the rest of the Decision is what follows if it holds not.
	Conditional Outcome = "conditional"
)

// ErrorKind says why traffic was rejected.
type ErrorKind string

// The kinds of error; empty is none.
const (
	NoListener    ErrorKind = "no_listener"
	NoFilterChain ErrorKind = "no_filter_chain"
	// InvalidMTLS: the chain and the client disagree about client certificates.
	InvalidMTLS ErrorKind = "invalid_mtls"
	// ProtocolError: the bytes are not of the protocol that the chain speaks.
	ProtocolError ErrorKind = "protocol"
	NoVirtualHost ErrorKind = "no_virtual_host"
	NoRoute       ErrorKind = "no_route"
	// NoCluster: the route names a cluster that nobody configured.
	NoCluster ErrorKind = "no_cluster"
)

// Decision is what happens to a connection and its request, and by which parts
// of the configuration. Fields after the one that decided are zero.
type Decision struct {
	Outcome Outcome
	// Status is the answer's status when the proxy answers itself.
	Status int
	Error  ErrorKind
	// Location is the target of a redirect.
	Location string

	Listener    *listener.Spec
	Chain       *listener.Chain
	Table       *router.Table
	VirtualHost *router.VirtualHost
	Route       *router.Route
	// Cluster is the chosen cluster's name, also when it does not exist.
	Cluster string
	// Weights of the split by cluster name; one entry when there is no split.
	Weights map[string]uint32
	// Policy is the authorization policy that decided, or empty.
	Policy string
	// Conditions of a Conditional outcome, in words.
	Conditions []string
	// Ask: the virtual host could still be asked for (VHDS).
	Ask bool
}

// Origin is the encoded wire.Origin of the most specific part that decided.
func (d *Decision) Origin() string {
	switch {
	case d.Route != nil && d.Route.Origin != "":
		return d.Route.Origin
	case d.VirtualHost != nil && d.VirtualHost.Origin != "":
		return d.VirtualHost.Origin
	case d.Chain != nil:
		return d.Chain.Origin
	}
	return ""
}

// Decide says what happens to a connection and its first request (nil: bytes
// that are no HTTP) under cfg. It asks the functions that the running proxy
// asks, in the same order, is deterministic, and always decides.
func Decide(cfg *Config, conn *fact.Conn, req *fact.Request, tr *fact.Trace) Decision {
	var d Decision
	l := cfg.Accepts(conn)
	if l == nil {
		tr.Add(fact.Step{Stage: fact.StageListener, Name: conn.Local.String(), Verdict: fact.Failed, Reason: "no listener takes this address"})
		return d.reject(NoListener, 0)
	}
	return DecideAt(cfg, l, conn, req, tr)
}

// DecideAt is Decide for a connection that listener l accepted, before l hands
// it over to the listener of its original destination.
func DecideAt(cfg *Config, l *listener.Matcher, conn *fact.Conn, req *fact.Request, tr *fact.Trace) Decision {
	var d Decision
	to := cfg.HandOver(l, conn.Local)
	if to != l {
		tr.Add(fact.Step{Stage: fact.StageListener, Name: l.Spec().Name, Verdict: fact.Skipped, Reason: "hands over to the listener of the original destination"})
	}
	if tr != nil {
		tr.Add(fact.Step{Stage: fact.StageListener, Name: to.Spec().Name, Verdict: fact.Chosen, Reason: "destination " + conn.Local.String()})
	}
	d.Listener = to.Spec()
	if d.Chain = to.Match(to.Spec().Seen(conn), tr); d.Chain == nil {
		return d.reject(NoFilterChain, 0)
	}
	if kind := CheckTransport(d.Chain, conn, req != nil); kind != "" {
		tr.Add(fact.Step{Stage: fact.StageTransport, Name: d.Chain.Name, Verdict: fact.Failed, Reason: transportReason(kind, d.Chain, conn)})
		return d.reject(kind, 0)
	}
	if v := AdmitConn(d.Chain, conn, tr); !v.Allowed {
		d.Policy = v.Policy
		d.Outcome = Deny
		return d
	}
	if d.Chain.HTTP == nil {
		d.forwardTCP(cfg, req, tr)
		return d
	}
	d.decideRequest(cfg, conn, req, tr)
	return d
}

// Accepts finds the listener whose socket takes the connection: by the socket's
// own address when it is known, else the one at the destination, else one that
// takes redirected connections.
func (c *Config) Accepts(conn *fact.Conn) *listener.Matcher {
	if conn.Direct.IsValid() {
		return c.At(conn.Direct)
	}
	if l := c.At(conn.Local); l != nil {
		return l
	}
	for _, l := range c.listeners {
		if s := l.Spec(); s.UseOriginalDst && s.Direction != listener.Inbound {
			return l
		}
	}
	return nil
}

// CheckTransport compares what the chain speaks with what the client does.
// isHTTP says that a request was parsed; a chain that forwards bytes takes both.
func CheckTransport(chain *listener.Chain, conn *fact.Conn, isHTTP bool) ErrorKind {
	if t := chain.TLS; t != nil {
		switch {
		case t.RequireClientCert && !conn.Verified, t.Validation == "" && conn.Verified:
			return InvalidMTLS
		case !conn.TLS:
			return ProtocolError
		}
	}
	if chain.HTTP != nil && (!isHTTP || (conn.TLS && chain.TLS == nil)) {
		return ProtocolError
	}
	return ""
}

func transportReason(kind ErrorKind, chain *listener.Chain, conn *fact.Conn) string {
	switch {
	case kind == InvalidMTLS && chain.TLS.RequireClientCert:
		return "the filter chain wants a client certificate, and there is none"
	case kind == InvalidMTLS:
		return "the client offers a certificate, and the filter chain asks for none"
	case chain.TLS != nil && !conn.TLS:
		return "the filter chain speaks TLS, the client plaintext"
	case conn.TLS:
		return "the client speaks TLS, and the filter chain reads plaintext HTTP"
	}
	return "the filter chain reads HTTP, and the client speaks something else"
}

// AdmitConn asks the chain's network filters.
func AdmitConn(chain *listener.Chain, conn *fact.Conn, tr *fact.Trace) authz.Verdict {
	for _, p := range chain.L4 {
		if v := p.Decide(conn, nil, tr); !v.Allowed {
			return v
		}
	}
	return authz.Verdict{Allowed: true}
}

// AdmitRequest asks the connection manager's filters, with the overrides of the
// weighted cluster, the route and the virtual host; each may be nil.
func AdmitRequest(h *listener.HTTPManager, host *router.VirtualHost, route *router.Route, w *router.Weighted, req *fact.Request, tr *fact.Trace) authz.Verdict {
	for i := range h.Filters {
		f := &h.Filters[i]
		policies, disabled := f.Authz, f.Disabled
		if o, ok := router.Override(f.Name, host, route, w); ok {
			disabled = o.Disabled
			if o.Authz != nil {
				policies = o.Authz
			}
		}
		if disabled || policies == nil {
			continue
		}
		if v := policies.Decide(req.Conn, req, tr); !v.Allowed {
			return v
		}
	}
	return authz.Verdict{Allowed: true}
}

// TranslatesGRPCWeb reports whether the connection manager's gRPC-Web filter is
// there and on, with the overrides that AdmitRequest heeds. It stands behind
// the filters that admit: those see the request as it came.
func TranslatesGRPCWeb(h *listener.HTTPManager, host *router.VirtualHost, route *router.Route, w *router.Weighted) bool {
	for i := range h.Filters {
		f := &h.Filters[i]
		if !f.GRPCWeb {
			continue
		}
		disabled := f.Disabled
		if o, ok := router.Override(f.Name, host, route, w); ok {
			disabled = o.Disabled
		}
		if !disabled {
			return true
		}
	}
	return false
}

func (d *Decision) decideRequest(cfg *Config, conn *fact.Conn, req *fact.Request, tr *fact.Trace) {
	if req.Conn == nil {
		bound := *req
		bound.Conn = conn
		req = &bound
	}
	h := d.Chain.HTTP
	var r router.Result
	if d.Table = cfg.RouteTable(h); d.Table != nil {
		r = d.Table.Match(req, tr)
	} else if tr != nil {
		tr.Add(fact.Step{Stage: fact.StageVirtualHost, Name: h.RouteName, Verdict: fact.Failed, Reason: "the route configuration has not come yet"})
	}
	d.VirtualHost, d.Route, d.Ask = r.Host, r.Route, r.Ask
	var w *router.Weighted
	if r.Route != nil && r.Route.Forward != nil {
		w = r.Route.Forward.Choose(req.Random)
	}
	if v := AdmitRequest(h, r.Host, r.Route, w, req, tr); !v.Allowed {
		d.Outcome, d.Status, d.Policy = Deny, http.StatusForbidden, v.Policy
		return
	}
	switch {
	case r.Host == nil:
		d.reject(NoVirtualHost, http.StatusNotFound)
	case r.RequireTLS:
		d.Outcome, d.Status = Redirect, http.StatusMovedPermanently
		d.Location = string(router.AppendTLSLocation(nil, req))
	case r.Route == nil:
		d.reject(NoRoute, http.StatusNotFound)
	default:
		d.act(cfg, w, req, tr)
		d.condition(req, tr)
	}
}

// act is what the route does.
func (d *Decision) act(cfg *Config, w *router.Weighted, req *fact.Request, tr *fact.Trace) {
	r := d.Route
	switch {
	case r.Redirect != nil:
		d.Outcome, d.Status = Redirect, r.Redirect.Status
		d.Location = string(r.Redirect.AppendLocation(nil, &r.Match, req))
	case r.Direct != nil:
		d.Outcome, d.Status = Direct, r.Direct.Status
	case r.Forward == nil:
		// A non-forwarding route is for proxies that don't forward (gRPC servers).
		d.reject(NoRoute, http.StatusNotFound)
	default:
		name, _ := r.Forward.ClusterName(w, req)
		d.Weights = weights(r.Forward.Clusters)
		d.toCluster(cfg, name, r.Forward.ClusterNotFound, tr)
	}
}

func (d *Decision) forwardTCP(cfg *Config, req *fact.Request, tr *fact.Trace) {
	p := d.Chain.TCP
	if p == nil {
		d.reject(NoCluster, 0)
		return
	}
	var random uint64
	if req != nil {
		random = req.Random
	}
	d.Weights = weights(p.Clusters)
	w := router.Choose(p.Clusters, p.TotalWeight, random)
	if w == nil {
		d.reject(NoCluster, 0)
		return
	}
	d.toCluster(cfg, w.Cluster, 0, tr)
}

func (d *Decision) toCluster(cfg *Config, name string, notFound int, tr *fact.Trace) {
	d.Cluster = name
	spec := cfg.Cluster(name)
	if spec == nil {
		if tr != nil {
			tr.Add(fact.Step{Stage: fact.StageCluster, Name: name, Verdict: fact.Failed, Reason: "no such cluster"})
		}
		d.reject(NoCluster, notFound)
		return
	}
	d.Outcome = Goes(spec)
	if tr != nil {
		tr.Add(fact.Step{Stage: fact.StageCluster, Name: name, Verdict: fact.Chosen, Reason: string(d.Outcome), Origin: spec.Origin})
	}
}

// Goes says what sending traffic to a cluster means: Passthrough when nobody
// registered its destination, Blackhole when it can never have endpoints, else
// Forward.
func Goes(spec *cluster.Spec) Outcome {
	switch {
	case spec.Catchall:
		return Passthrough
	case spec.Kind == cluster.Static && (spec.Endpoints == nil || spec.Endpoints.Count() == 0):
		return Blackhole
	}
	return Forward
}

func weights(clusters []router.Weighted) map[string]uint32 {
	if len(clusters) == 0 {
		return nil
	}
	out := make(map[string]uint32, len(clusters))
	for i := range clusters {
		out[clusters[i].Cluster] += clusters[i].Weight
	}
	return out
}

// condition makes the outcome conditional when a route that takes a part of the
// requests could have decided otherwise.
func (d *Decision) condition(req *fact.Request, tr *fact.Trace) {
	if tr == nil {
		return
	}
	for i, r := range d.VirtualHost.Routes {
		if r.Match.Fractional() && r.Match.HoldsBesideFraction(req) {
			d.Outcome = Conditional
			d.Conditions = append(d.Conditions, fmt.Sprintf("route %s takes %d of %d requests", r.Label(i), r.Match.FractionNum, r.Match.FractionDen))
		}
		if r == d.Route {
			return
		}
	}
}

func (d *Decision) reject(kind ErrorKind, status int) Decision {
	d.Outcome, d.Error, d.Status = Reject, kind, status
	return *d
}
