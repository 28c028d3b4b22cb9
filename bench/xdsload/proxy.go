package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

// vhdsFeature is how a proxy announces that it takes virtual hosts as
// resources of their own; servers that do not know it send them inline.
const vhdsFeature = "tulle.vhds"

// proxy plays one sidecar: it subscribes clusters and their endpoints,
// listeners and their routes, and accepts everything.
type proxy struct {
	fleet *fleet
	id    int
	node  *corev3.Node

	started time.Time
	ready   time.Time
	readyCh chan struct{} // closed once, when everything is there

	// Owned by the stream's goroutine.
	conn     grpc.ClientStream
	nodeSent bool
	seen     map[string]bool                // types that were answered
	owners   map[string]map[string]*content // by type, then name: who refers
	want     map[string]map[string]bool     // by type: names subscribed
	got      map[string]map[string]bool     // by type: names that came
	nonce    map[string]string
	version  map[string]string
}

// childOf maps who refers to what is referred to.
func childOf() map[string]string {
	return map[string]string{clusterType: endpointType, listenerType: routeType, routeType: virtualHostType}
}

func (m *mesh) node(k int, vhds bool) (*corev3.Node, error) {
	service, endpoint := k%m.services, k/m.services%m.endpoints
	ip, ns, app := endpointIP(service, endpoint), m.namespace(service), fmt.Sprintf("svc-%04d", service)
	region, zone := m.locality(service, endpoint)
	pod := fmt.Sprintf("%s-%d", app, k/m.services)
	md, err := structpb.NewStruct(map[string]any{
		"NAME": pod, "NAMESPACE": ns, "CLUSTER_ID": "Kubernetes", "MESH_ID": "cluster.local",
		"ISTIO_VERSION": "1.31.0", "INSTANCE_IPS": ip, "INTERCEPTION_MODE": "REDIRECT",
		"SERVICE_ACCOUNT": app, "WORKLOAD_NAME": app, "NODE_NAME": "node-1",
		"OWNER":     "kubernetes://apis/apps/v1/namespaces/" + ns + "/deployments/" + app,
		"POD_PORTS": `[{"name":"http","containerPort":8080,"protocol":"TCP"}]`, "APP_CONTAINERS": "app",
		"ENVOY_PROMETHEUS_PORT": 15090, "ENVOY_STATUS_PORT": 15021, "PILOT_SAN": []any{"istiod.istio-system.svc"},
		"LABELS": map[string]any{
			"app": app, "version": fmt.Sprintf("v%d", endpoint%2+1), "security.istio.io/tlsMode": "istio",
			"service.istio.io/canonical-name": app, "service.istio.io/canonical-revision": "latest",
		},
		"ANNOTATIONS":  map[string]any{"sidecar.istio.io/status": "{}"},
		"PROXY_CONFIG": map[string]any{"discoveryAddress": "istiod.istio-system.svc:15012", "concurrency": 2},
	})
	if err != nil {
		return nil, err
	}
	n := &corev3.Node{
		Id: fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", ip, pod, ns, ns), Cluster: app + "." + ns,
		Metadata: md, Locality: &corev3.Locality{Region: region, Zone: zone},
	}
	if vhds {
		n.ClientFeatures = []string{vhdsFeature}
	}
	return n, nil
}

// run opens one stream and plays until it ends.
func (p *proxy) run(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:///"+p.fleet.addr,
		grpc.WithTransportCredentials(p.fleet.creds),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30)),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a)
		}))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	method := discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName
	if p.fleet.delta {
		method = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName
	}
	p.conn, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	p.reset()
	for _, typeURL := range []string{clusterType, listenerType} {
		if err := p.ask(typeURL, nil, nil); err != nil {
			return err
		}
	}
	for {
		var m raw
		if err := p.conn.RecvMsg(&m); err != nil {
			return err
		}
		if err := p.take(m.bytes, time.Now()); err != nil {
			return err
		}
	}
}

func (p *proxy) reset() {
	p.nodeSent = false
	p.seen, p.nonce, p.version = map[string]bool{}, map[string]string{}, map[string]string{}
	p.owners, p.want, p.got = map[string]map[string]*content{}, map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, t := range types() {
		p.owners[t], p.want[t], p.got[t] = map[string]*content{}, map[string]bool{}, map[string]bool{}
	}
}

// ask sends a request: an ACK when a response came, a change of names when the
// lists say so.
func (p *proxy) ask(typeURL string, subscribe, unsubscribe []string) error {
	var node *corev3.Node
	if !p.nodeSent {
		node, p.nodeSent = p.node, true
	}
	if p.fleet.delta {
		return p.conn.SendMsg(&discoveryv3.DeltaDiscoveryRequest{
			Node: node, TypeUrl: typeURL, ResourceNamesSubscribe: subscribe, ResourceNamesUnsubscribe: unsubscribe,
		})
	}
	return p.conn.SendMsg(&discoveryv3.DiscoveryRequest{
		Node: node, TypeUrl: typeURL, VersionInfo: p.version[typeURL], ResponseNonce: p.nonce[typeURL],
		ResourceNames: slices.Sorted(maps.Keys(p.want[typeURL])),
	})
}

// take accepts a response and subscribes to what it refers to.
func (p *proxy) take(b []byte, now time.Time) error {
	r, err := parse(b, p.fleet.delta)
	if err != nil {
		return err
	}
	p.fleet.count(r, len(b), now)
	p.fleet.mark(p.id, r, now)
	p.seen[r.typeURL], p.nonce[r.typeURL], p.version[r.typeURL] = true, r.nonce, r.version
	if p.fleet.delta {
		err = p.conn.SendMsg(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce})
	} else {
		err = p.ask(r.typeURL, nil, nil)
	}
	if err != nil {
		return err
	}
	if err := p.apply(r); err != nil {
		return err
	}
	if p.ready.IsZero() && p.complete() {
		p.ready = now
		close(p.readyCh)
	}
	return nil
}

func (p *proxy) apply(r response) error {
	owners := p.owners[r.typeURL]
	if owners == nil {
		return nil // a type that is not measured
	}
	if !p.fleet.delta && (r.typeURL == clusterType || r.typeURL == listenerType) {
		clear(owners)
	}
	for _, x := range r.resources {
		c, err := p.fleet.reader.read(r.typeURL, x.value)
		if err != nil {
			return err
		}
		name := x.name
		if name == "" {
			name = c.name
		}
		if r.typeURL != endpointType && r.typeURL != virtualHostType {
			owners[name] = c
		}
		p.got[r.typeURL][name] = true
		if owner, _, ok := strings.Cut(name, "/"); ok && r.typeURL == virtualHostType {
			p.got[virtualHostType][owner] = true
		}
	}
	for _, n := range r.removed {
		delete(owners, n)
		p.got[r.typeURL][n] = true // the answer is that there is none
	}
	if r.typeURL == virtualHostType && len(r.resources) == 0 {
		maps.Copy(p.got[virtualHostType], p.want[virtualHostType])
	}
	if child := childOf()[r.typeURL]; child != "" {
		return p.follow(child, owners)
	}
	return nil
}

// follow subscribes to what the owners refer to, and to nothing else.
func (p *proxy) follow(child string, owners map[string]*content) error {
	next := map[string]bool{}
	for _, c := range owners {
		for _, n := range c.refs {
			next[n] = true
		}
	}
	var subscribe, unsubscribe []string
	for n := range next {
		if !p.want[child][n] {
			subscribe = append(subscribe, n)
		}
	}
	for n := range p.want[child] {
		if !next[n] {
			unsubscribe = append(unsubscribe, n)
			delete(p.got[child], n)
			delete(p.owners[child], n)
		}
	}
	p.want[child] = next
	if len(subscribe)+len(unsubscribe) == 0 {
		return nil
	}
	slices.Sort(subscribe)
	return p.ask(child, subscribe, unsubscribe)
}

func (p *proxy) complete() bool {
	if !p.seen[clusterType] || !p.seen[listenerType] {
		return false
	}
	for _, t := range []string{endpointType, routeType, virtualHostType} {
		for n := range p.want[t] {
			if !p.got[t][n] {
				return false
			}
		}
	}
	return true
}

func (m *marker) matches(r response) bool {
	if !slices.Contains(m.types, r.typeURL) {
		return false
	}
	return slices.ContainsFunc(r.resources, func(x resource) bool { return bytes.Contains(x.value, m.text) })
}
