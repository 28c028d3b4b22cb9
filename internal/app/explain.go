package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/proxy/compile"
	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/wire"
)

// ErrRefused says that our own proxy would refuse what our control plane
// sends: a defect of ours, told instead of a wrong answer.
var ErrRefused = errors.New("the proxy refuses the configuration")

// Explain decides a question over files: it translates them for the proxy of
// the question, compiles what the proxy would get, and asks the proxy's own
// Decide.
func Explain(ctx context.Context, q Question) (*Answer, error) {
	e, err := NewExplainer(q.Files, q.MeshConfig)
	if err != nil {
		return nil, err
	}
	return e.Explain(ctx, q)
}

// Explainer answers questions over files that are read once. It is immutable.
type Explainer struct{ published *published }

// NewExplainer reads files as Explain does.
func NewExplainer(files []string, meshConfig string) (*Explainer, error) {
	g, _, err := load(files, meshConfig)
	if err != nil {
		return nil, err
	}
	return &Explainer{g}, nil
}

// Explain is as the function, over the Explainer's files in place of q's.
func (e *Explainer) Explain(_ context.Context, q Question) (*Answer, error) {
	g := e.published
	node, err := q.node()
	if err != nil {
		return nil, err
	}
	view, err := view.New(g.snapshot, node, "")
	if err != nil {
		return nil, err
	}
	// Which clusters matter shows when the routes are there: so the answer is
	// looked for without clusters first. A mesh has thousands.
	var names []string
	var cfg *generation.Config
	var d generation.Decision
	var trace fact.Trace
	for range 2 {
		cfg, err = compileView(g.translator, view, q.needs(names))
		if err != nil {
			return nil, err
		}
		trace = fact.Trace{}
		d = q.decide(g, cfg, node.Namespace, &trace)
		names = append(slices.Collect(maps.Keys(d.Weights)), d.Cluster)
	}
	a := g.answer(cfg, &d, &trace)
	a.Refused = g.refused()
	return a, nil
}

// decide asks the proxy's own function.
func (q *Question) decide(g *published, cfg *generation.Config, namespace string, trace *fact.Trace) generation.Decision {
	conn, accepting := q.connection(g, cfg, namespace)
	var request *fact.Request
	if q.Protocol != "tcp" {
		request = q.request(conn)
	}
	if accepting != nil {
		return generation.DecideAt(cfg, accepting, conn, request, trace)
	}
	return generation.Decide(cfg, conn, request, trace)
}

// needs picks what the question can meet: listeners at its port and those that
// take redirected connections, all routes that they name, and these clusters.
// Neither endpoints nor secrets change a decision.
func (q *Question) needs(clusters []string) func(typeURL, name string) bool {
	// A listener's name ends with its port, unless the node says that it binds
	// ports elsewhere.
	suffix := "_" + strconv.Itoa(q.Port)
	if q.Metadata["TULLE_APP_PORTS"] != "" {
		suffix = ""
	}
	return func(typeURL, name string) bool {
		switch typeURL {
		case wire.ListenerType:
			return strings.HasSuffix(name, suffix) || name == wire.VirtualInbound || name == wire.VirtualOutbound
		case wire.ClusterType:
			return slices.Contains(clusters, name)
		}
		return typeURL == wire.RouteType
	}
}

// refused counts what stands in the files and is refused. What the model finds
// beside that (dangling references, conflicts) is a part of the answer.
func (g *published) refused() int {
	n := 0
	for _, p := range g.set.Problems {
		if p.Refuses() {
			n++
		}
	}
	return n
}

// node is the question's proxy as it would announce itself.
func (q *Question) node() (*wire.Node, error) {
	kind, ns := wire.Sidecar, cmp.Or(q.Metadata["NAMESPACE"], q.Namespace, "default")
	if q.Gateway {
		kind = wire.Router
	}
	n := &corev3.Node{Id: wire.NodeID(kind, q.address(), "explain", ns, ns+".svc.cluster.local"), Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{}}}
	for k, v := range q.Metadata {
		n.Metadata.Fields[k] = structpb.NewStringValue(v)
		// Values that are objects in a node's metadata are written as JSON.
		if o := new(structpb.Struct); strings.HasPrefix(v, "{") && protojson.Unmarshal([]byte(v), o) == nil {
			n.Metadata.Fields[k] = structpb.NewStructValue(o)
		}
	}
	if len(q.ProxyIPs) > 0 {
		var ips []string
		for _, a := range q.ProxyIPs {
			ips = append(ips, a.String())
		}
		n.Metadata.Fields["INSTANCE_IPS"] = structpb.NewStringValue(strings.Join(ips, ","))
	}
	labels := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range q.Labels {
		labels.Fields[k] = structpb.NewStringValue(v)
	}
	n.Metadata.Fields["LABELS"] = structpb.NewStructValue(labels)
	return wire.ParseNode(n)
}

// address is the proxy's own first address.
func (q *Question) address() netip.Addr {
	if len(q.ProxyIPs) > 0 {
		return q.ProxyIPs[0]
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// compileView builds what a proxy with this view would hold, of that what the
// caller picks.
func compileView(t *translate.Translator, v *view.View, pick func(typeURL, name string) bool) (*generation.Config, error) {
	b := compile.NewBuilder(compile.New())
	now := time.Now()
	take := func(typeURL string, names []string) error {
		var resources []*wire.Resource
		for _, name := range names {
			if !pick(typeURL, name) {
				continue
			}
			r, err := t.Build(v, typeURL, name)
			if err != nil {
				return err
			}
			if r != nil {
				resources = append(resources, r)
			}
		}
		for _, r := range b.Apply(typeURL, resources, nil, now) {
			return fmt.Errorf("%w: %s %s: %s", ErrRefused, wire.ShortType(typeURL), r.Name, r.Reason)
		}
		return nil
	}
	if err := errors.Join(take(wire.ClusterType, t.Names(v, wire.ClusterType)), take(wire.ListenerType, t.Names(v, wire.ListenerType))); err != nil {
		return nil, err
	}
	for typeURL, names := range b.Wants() {
		if err := take(typeURL, names); err != nil {
			return nil, err
		}
	}
	// Nothing more will come: what still waits for references goes live as it
	// would after the proxy's wait.
	cfg, wait := b.Build(now)
	if wait > 0 {
		cfg, _ = b.Build(now.Add(wait))
	}
	return cfg, nil
}

// connection are the facts of the question's connection, and the listener
// whose socket takes it, nil when its address finds it.
func (q *Question) connection(g *published, cfg *generation.Config, namespace string) (*fact.Conn, *listener.Matcher) {
	c := &fact.Conn{Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 2}), 40000), TLS: q.TLS != "none", SNI: strings.ToLower(q.SNI)}
	if q.ALPN != "" {
		c.ALPN = strings.Split(q.ALPN, ",")
	}
	if p := usualALPN(q.TLS, q.Protocol); p != "" && len(c.ALPN) == 0 {
		c.ALPN = []string{p}
	}
	if q.TLS == "tls" && c.SNI == "" {
		// A TLS client names the host that it calls.
		c.SNI = strings.ToLower(q.Host)
	}
	if q.TLS == "mtls" {
		c.Verified = true
		c.Peer = "spiffe://" + g.snapshot.Mesh().TrustDomain + "/ns/" + namespace + "/sa/default"
	}
	address := q.Address
	var accepting *listener.Matcher
	switch {
	case q.Gateway || q.Inbound:
		if !address.IsValid() {
			address = q.address()
		}
		if q.Inbound {
			accepting = cfg.Listener(wire.VirtualInbound)
		}
	default:
		if !address.IsValid() {
			address = q.serviceAddress(g, namespace)
		}
		accepting = cfg.Listener(wire.VirtualOutbound)
	}
	c.Local = netip.AddrPortFrom(address, uint16(q.Port))
	return c, accepting
}

// usualALPN is what clients of a protocol offer, and sidecars within mutual TLS
// (Istio); of plaintext it is what sniffing finds. Empty: nothing.
func usualALPN(tls, protocol string) string {
	return map[string]map[string]string{
		"none": {"http": "http/1.1", "http2": "h2c"},
		"tls":  {"http": "http/1.1", "http2": "h2"},
		"mtls": {"http": "istio-http/1.1", "http2": "istio-h2", "tcp": "istio"},
	}[tls][protocol]
}

// serviceAddress is the address that the question's host would resolve to, and
// an address that no service has (RFC 5737) where it resolves to none.
func (q *Question) serviceAddress(g *published, namespace string) netip.Addr {
	host, _, _ := strings.Cut(strings.ToLower(q.Host), ":")
	for _, name := range []string{host, host + "." + namespace + ".svc.cluster.local", host + ".svc.cluster.local", host + ".cluster.local"} {
		if svc := g.snapshot.Service(name, namespace); svc != nil {
			if a := addressOf(svc); a.IsValid() {
				return a
			}
		}
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, 1})
}

func addressOf(svc *registry.Service) netip.Addr {
	for _, p := range svc.Addresses {
		if p.IsSingleIP() {
			return p.Addr()
		}
	}
	return svc.AutoAddress
}

// headers are the question's request headers as facts.
type headers [][2]string

// Get implements fact.Headers: values of a repeated name are joined.
func (h headers) Get(name string) ([]byte, bool) {
	var values []string
	for _, kv := range h {
		if kv[0] == name {
			values = append(values, kv[1])
		}
	}
	return []byte(strings.Join(values, ",")), len(values) > 0
}

func (q *Question) request(conn *fact.Conn) *fact.Request {
	r := &fact.Request{Conn: conn, Protocol: fact.HTTP11, Method: []byte(q.Method), Scheme: []byte("http"), Authority: []byte(q.Host), Path: []byte(q.Path), Headers: headers(q.Headers)}
	if q.Protocol == "http2" {
		r.Protocol = fact.HTTP2
	}
	if conn.TLS {
		r.Scheme = []byte("https")
	}
	return r
}

// answer puts a decision into the words of the command line.
func (g *published) answer(cfg *generation.Config, d *generation.Decision, tr *fact.Trace) *Answer {
	a := &Answer{Decision: string(d.Outcome), Status: d.Status, Error: string(d.Error), Cluster: d.Cluster, Policy: d.Policy,
		Weights: d.Weights, Conditions: d.Conditions, Origin: []Place{}, Trace: []Step{}}
	if d.Error == generation.NoCluster {
		a.Error, a.Missing = "", d.Cluster
	}
	if a.Weights == nil {
		a.Weights = map[string]uint32{}
	}
	if a.Conditions == nil {
		a.Conditions = []string{}
	}
	if d.Listener != nil {
		a.Listener = d.Listener.Name
	}
	if d.Chain != nil {
		a.FilterChain = d.Chain.Name
	}
	if d.Table != nil {
		a.RouteConfig = d.Table.Name()
	}
	if d.VirtualHost != nil {
		a.VirtualHost = d.VirtualHost.Name
	}
	if d.Route != nil {
		a.Route = d.Route.Name
	}
	origins := []string{d.Policy, d.Origin()} // a policy is named by the object that it is of
	if spec := cfg.Cluster(d.Cluster); spec != nil {
		origins = append(origins, spec.Origin)
	}
	for _, encoded := range origins {
		if p, ok := g.place(encoded); ok && !slices.Contains(a.Origin, p) {
			a.Origin = append(a.Origin, p)
		}
	}
	for _, s := range tr.Steps {
		step := Step{Stage: string(s.Stage), Name: s.Name, Verdict: string(s.Verdict), Matched: s.Verdict == fact.Chosen || s.Verdict == fact.Allowed, Why: s.Reason}
		if p, ok := g.place(s.Origin); ok {
			step.Origin = &p
		}
		a.Trace = append(a.Trace, step)
	}
	return a
}

// place joins an origin with the file, line and column that its object has now.
func (g *published) place(encoded string) (Place, bool) {
	o, ok := wire.ParseOrigin(encoded)
	if !ok {
		return Place{}, false
	}
	for _, obj := range slices.Concat(g.set.Objects, g.set.Denied) { // a refused security object denies
		if !wire.OriginMatches(o, obj.Key.Kind, obj.Key.Namespace, obj.Key.Name) {
			continue
		}
		at := obj.Position(o.Path)
		return Place{Kind: obj.Key.Kind, Namespace: obj.Key.Namespace, Name: obj.Key.Name, Path: o.Path, File: at.File, Line: at.Line, Column: at.Column}, true
	}
	return Place{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Path: o.Path}, true
}
