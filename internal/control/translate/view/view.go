// Package view says what a proxy's configuration depends on, and remembers what
// was built by it. In come a Snapshot and a node with the identity that it
// proved; out comes a View. Whatever is built for a View is built by a Reader,
// which writes down each question that the build asks; Memory keeps the result
// under exactly these questions and answers, so that all Views that answer
// alike share it, and a later Memory takes over what no change touches.
//
// A View is immutable, and so is what is remembered. A Memory belongs to one
// Snapshot, locks itself and is safe for concurrent use; a Reader belongs to
// the build that it was made for.
//
// Read this file first, then questions.go (all that may be asked), scope.go
// (what a proxy may call) and memory.go.
package view

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/registry"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/wire"
)

// ErrRefused is wrapped by every refusal of New.
var ErrRefused = errors.New("view refused")

// Role is what a proxy is for.
type Role uint8

// The roles.
const (
	RoleSidecar Role = iota
	RoleGateway
	// RoleGRPC is a proxyless gRPC client (metadata GENERATOR=grpc).
	RoleGRPC
)

// Interception is how traffic reaches a sidecar (Istio: INTERCEPTION_MODE).
type Interception uint8

// The ways of interception.
const (
	InterceptRedirect Interception = iota
	InterceptTPROXY
	InterceptNone
)

// View is all that a proxy's configuration depends on, at one Snapshot. It is
// immutable. Locality and network are no part of it: endpoints are sent alike
// to all places.
type View struct {
	facts
	index atomic.Pointer[Scope] // of scope, filled by a Memory
}

// facts are what a View says, and are copied when it is renewed.
type facts struct {
	snap      *model.Snapshot // from which it was derived
	role      Role
	namespace string
	domain    string // DNS search domain of the workload
	labels    map[string]string
	addrs     []netip.Addr
	workload  *registry.Workload
	identity  string // authenticated SPIFFE URI; empty: plaintext, nothing proven

	// How traffic reaches the proxy.
	intercept     Interception
	httpProxyPort int
	appPorts      map[string]string // workload port → the app's own address
	egress        map[string]string // "host:port" → listening address
	dnsCapture    bool

	vhds bool // the proxy takes virtual hosts one by one

	// Derived from the Snapshot.
	scope     *model.SidecarScope
	instances []model.Instance
	peerAuth  *model.PeerAuth
	gateways  []*model.Gateway

	// Canonical forms of the above, as answers.
	inboundText, gatewayText, egressText, labelsText, key string
}

// New derives the View of a node. With a peer identity (the SPIFFE URI of
// the verified client certificate) namespace, labels, addresses and services
// come from our own record of that workload, and what the node claims may only
// narrow them; without a record the node is refused, because policies that
// select by label would silently not apply. On plaintext (peer empty) the
// node's claims are taken as they are, and no secrets are served.
func New(s *model.Snapshot, node *wire.Node, peer string) (*View, error) {
	v := &View{facts: facts{
		namespace: node.Namespace, domain: node.Domain, labels: node.Metadata.Labels, addrs: node.IPs,
		identity:  peer,
		appPorts:  node.Metadata.AppPorts,
		egress:    node.Metadata.Egress,
		vhds:      node.Supports(wire.FeatureVHDS),
		intercept: interception(node.Metadata.Interception),
	}}
	v.dnsCapture = node.Metadata.DNSCapture
	v.httpProxyPort = node.Metadata.HTTPProxyPort
	if v.httpProxyPort == 0 {
		v.httpProxyPort = s.Mesh().HTTPProxyPort
	}
	switch {
	case node.Metadata.Generator == "grpc":
		v.role = RoleGRPC
	case node.Type == wire.Router:
		v.role = RoleGateway
	}
	v.workload = findWorkload(s, node)
	if v.workload != nil && len(v.labels) == 0 {
		v.labels = v.workload.Labels // a client that claims none
	}
	if peer != "" {
		if err := v.authenticate(node, peer); err != nil {
			return nil, err
		}
	}
	v.derive(s)
	return v, nil
}

// Renew is the View of the same node and peer at a later Snapshot, when nothing
// that it was derived from has changed between the two; nil: it has to be
// derived anew. before is the Snapshot that the changes are counted from; c may
// be nil: what changed is not known.
func (v *View) Renew(now, before *model.Snapshot, c *model.Changes) *View {
	if v.snap != now && (c == nil || v.snap != before || !v.outlives(c)) {
		return nil
	}
	out := &View{facts: v.facts}
	out.snap = now
	if scope := now.Scope(v.namespace, v.labels); scope != v.scope {
		out.scope = scope
		out.inboundText = out.inboundKey()
		out.key = out.fingerprint()
	}
	return out
}

// outlives reports whether a View is the same after changes, but for its scope.
func (v *View) outlives(c *model.Changes) bool {
	if len(c.Workloads)+len(c.PeerNamespaces) > 0 || v.role == RoleGateway && len(c.Gateways) > 0 {
		return false
	}
	for _, keys := range []map[model.ServiceKey]struct{}{c.Services, c.Endpoints} {
		for k := range keys {
			if k.Namespace == v.namespace {
				return false // it may serve, or have served, one of them
			}
		}
	}
	return true
}

func interception(mode string) Interception {
	switch mode {
	case "NONE":
		return InterceptNone
	case "TPROXY":
		return InterceptTPROXY
	}
	return InterceptRedirect
}

func findWorkload(s *model.Snapshot, node *wire.Node) *registry.Workload {
	if w := s.Workload(node.Namespace, node.Name); w != nil {
		return w
	}
	for _, a := range node.IPs {
		if w := s.WorkloadByAddr(a); w != nil && w.Namespace == node.Namespace {
			return w
		}
	}
	return nil
}

// authenticate holds the node's claims against its certificate and our record.
func (v *View) authenticate(node *wire.Node, peer string) error {
	id, err := identity.Parse(peer)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if id.Namespace != node.Namespace {
		return fmt.Errorf("%w: node %q claims namespace %q, its certificate is for %s", ErrRefused, node.ID, node.Namespace, peer)
	}
	w := v.workload
	if w == nil {
		return fmt.Errorf("%w: no workload %s/%s is known yet: is its Pod or WorkloadEntry there?", ErrRefused, node.Namespace, node.Name)
	}
	if w.Account != "" && w.Account != id.ServiceAccount {
		return fmt.Errorf("%w: workload %s/%s runs as service account %q, its certificate is for %s", ErrRefused, w.Namespace, w.Name, w.Account, peer)
	}
	v.labels, v.addrs = w.Labels, w.Addresses
	return nil
}

// derive reads off the Snapshot what the workload's labels select.
func (v *View) derive(s *model.Snapshot) {
	v.snap = s
	v.scope = s.Scope(v.namespace, v.labels)
	v.peerAuth = s.PeerAuth(v.namespace, v.labels)
	switch {
	case v.workload != nil:
		v.instances = s.Instances(v.workload)
	case v.identity == "":
		// Endpoints that only a ServiceEntry or an EndpointSlice knows. Whoever
		// proved an identity has a record of its own.
		v.instances = s.InstancesAt(v.namespace, v.addrs...)
	}
	if v.role == RoleGateway {
		v.gateways = s.Gateways(v.labels, v.instances)
	}
	if v.domain == "" {
		v.domain = v.namespace + ".svc." + s.Mesh().DomainSuffix
	}
	v.inboundText, v.gatewayText, v.egressText = v.inboundKey(), v.gatewayKey(), selectorText(v.egress)
	v.labelsText = selectorText(v.labels)
	v.key = v.fingerprint()
}

// Key tells Views apart within one Snapshot: equal keys get equal resources.
func (v *View) Key() string { return v.key }

// Namespace is the workload's namespace.
func (v *View) Namespace() string { return v.namespace }

// Role is what the proxy is for.
func (v *View) Role() Role { return v.role }

// Workload is our own record of the workload, nil if there is none.
func (v *View) Workload() *registry.Workload { return v.workload }

func (v *View) fingerprint() string {
	var b strings.Builder
	field := func(s string) { b.WriteString(s); b.WriteByte(0) }
	field(strconv.Itoa(int(v.role)))
	field(v.namespace)
	field(v.domain)
	field(v.labelsText)
	for _, a := range v.addrs {
		field(a.String())
	}
	field(fmt.Sprint(v.identity, v.intercept, v.httpProxyPort, v.vhds, v.dnsCapture))
	field(selectorText(v.appPorts))
	field(selectorText(v.egress))
	field(v.inboundText)
	field(v.gatewayText)
	if !v.scope.Default {
		// The pointer names the scope's content; a View keeps its scope alive,
		// so two Views with one pointer have one scope.
		field(fmt.Sprintf("%p", v.scope))
	}
	return b.String()
}

// selectorText writes labels in one canonical way, "k=v,k2=v2".
func selectorText(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(labels[k])
	}
	return b.String()
}

// selectedBy reports whether a selector in canonical form selects the labels.
func selectedBy(selector string, labels map[string]string) bool {
	if selector == "" {
		return true
	}
	for _, pair := range strings.Split(selector, ",") {
		k, want, _ := strings.Cut(pair, "=")
		if have, ok := labels[k]; !ok || have != want {
			return false
		}
	}
	return true
}

// hasFamily reports whether the proxy can reach addresses of a's family. A
// proxy whose addresses are unknown is taken to have IPv4 (as Istio does).
func (v *View) hasFamily(a netip.Addr) bool {
	if len(v.addrs) == 0 {
		return a.Is4()
	}
	for _, own := range v.addrs {
		if own.Is4() == a.Is4() {
			return true
		}
	}
	return false
}
