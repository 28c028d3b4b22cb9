package xds

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/tullemesh/tulle/internal/wire"
)

// meshGeneration is a mesh of n services with what Istio sends for each: a
// cluster of about 1 kB and its endpoints of about 1 kB; one listener.
type meshGeneration struct {
	version   string
	names     []string
	resources map[string]map[string]*wire.Resource
}

func newMesh(n int) *meshGeneration {
	g := &meshGeneration{version: "1", resources: map[string]map[string]*wire.Resource{wire.ClusterType: {}, wire.EndpointType: {}}}
	for i := range n {
		name := fmt.Sprintf("outbound|80||svc-%04d.bench.svc.cluster.local", i)
		g.names = append(g.names, name)
		for typeURL, set := range g.resources {
			set[name] = wire.PackResource(name, typeURL, bytes.Repeat([]byte{byte(i)}, 1000))
		}
	}
	return g
}

// edit is the next generation, with one endpoint resource changed.
func (g *meshGeneration) edit(i int) (*meshGeneration, Dirty) {
	next := &meshGeneration{version: strconv.Itoa(i), names: g.names, resources: map[string]map[string]*wire.Resource{
		wire.ClusterType: g.resources[wire.ClusterType], wire.EndpointType: {},
	}}
	for n, r := range g.resources[wire.EndpointType] {
		next.resources[wire.EndpointType][n] = r
	}
	name := g.names[i%len(g.names)]
	next.resources[wire.EndpointType][name] = wire.PackResource(name, wire.EndpointType, fmt.Appendf(nil, "edit %d", i))
	return next, Dirty{Types: map[string]NameSet{wire.EndpointType: {Names: map[string]struct{}{name: {}}}}}
}

type oneView struct{}

func (oneView) Key() string { return "" }

func (g *meshGeneration) Version() string                         { return g.version }
func (g *meshGeneration) View(*Client) (View, error)              { return oneView{}, nil }
func (g *meshGeneration) Resources(View, string) []*wire.Resource { return nil }
func (g *meshGeneration) Names(_ View, typeURL string) []string {
	if g.resources[typeURL] != nil {
		return g.names
	}
	return nil
}

func (g *meshGeneration) Build(_ View, typeURL, name string) (*wire.Resource, error) {
	return g.resources[typeURL][name], nil
}

// pipe is a stream without a transport: requests go in by a channel, responses
// are counted.
type pipe struct {
	grpc.ServerStream
	context  func() context.Context
	requests chan *discoveryv3.DeltaDiscoveryRequest
	got      chan int // resources of each response

	mu    sync.Mutex
	bytes int
}

func (p *pipe) Context() context.Context { return p.context() }

func (p *pipe) RecvMsg(m any) error {
	select {
	case r, ok := <-p.requests:
		if !ok {
			return io.EOF
		}
		dst := m.(*discoveryv3.DeltaDiscoveryRequest)
		dst.Node, dst.TypeUrl, dst.ResourceNamesSubscribe = r.Node, r.TypeUrl, r.ResourceNamesSubscribe
		return nil
	case <-p.Context().Done():
		return p.Context().Err()
	}
}

func (p *pipe) SendMsg(m any) error {
	r := m.(*response)
	p.mu.Lock()
	p.bytes += r.parts.Len()
	p.mu.Unlock()
	select {
	case p.got <- r.count:
		return nil
	case <-p.Context().Done():
		return p.Context().Err()
	}
}

// await receives responses until n resources came.
func (p *pipe) await(n int) {
	for n > 0 {
		n -= <-p.got
	}
}

// storm connects streams to a server of the mesh; each takes all clusters and
// endpoints.
type storm struct {
	server *Server
	pipes  []*pipe
	stop   func()
}

func newStorm(g *meshGeneration, streams int) *storm {
	s := &storm{server: New(Options{})}
	s.server.Publish(g, Dirty{All: true})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	s.stop = func() { cancel(); serving.Wait(); s.server.running.Wait() }
	var ready sync.WaitGroup
	for i := range streams {
		p := &pipe{context: func() context.Context { return ctx }, requests: make(chan *discoveryv3.DeltaDiscoveryRequest), got: make(chan int)}
		s.pipes = append(s.pipes, p)
		serving.Go(func() { _ = s.server.serve(p, true) })
		ready.Go(func() {
			node := &corev3.Node{Id: fmt.Sprintf("sidecar~127.0.0.1~web-%d.bench~bench.svc.cluster.local", i)}
			p.requests <- &discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: wire.ClusterType}
			p.await(len(g.names))
			names := make([]string, len(g.names))
			for j, n := range g.names {
				names[j] = string([]byte(n)) // as a transport would allocate them
			}
			p.requests <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: wire.EndpointType, ResourceNamesSubscribe: names}
			p.await(len(g.names))
		})
	}
	ready.Wait()
	return s
}

// TestStormSharesBytes connects 200 streams to 200 services: what a stream
// keeps and allocates does not grow with the bytes that it is sent.
func TestStormSharesBytes(t *testing.T) {
	const services, streams = 200, 200
	g := newMesh(services)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newStorm(g, streams)
	runtime.ReadMemStats(&after)
	allocated := (after.TotalAlloc - before.TotalAlloc) / streams
	runtime.GC()
	runtime.ReadMemStats(&after)
	kept := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / streams
	sent := s.pipes[0].bytes
	t.Logf("per stream: %d bytes sent, %d allocated, %d kept", sent, allocated, kept)
	if sent < 2*services*1000 {
		t.Errorf("only %d bytes were sent", sent)
	}
	if allocated > 120_000 {
		t.Errorf("%d bytes allocated for a stream, at most 120,000: are bytes copied?", allocated)
	}
	if kept > 16_000 {
		t.Errorf("%d bytes kept for a stream, at most 16,000", kept)
	}
	runtime.KeepAlive(g)
	s.stop()
}

// BenchmarkStorm is the cost of connecting one proxy, both types, without a
// transport: run with -benchtime=500x for the storm of FIELD's table.
func BenchmarkStorm(b *testing.B) {
	g := newMesh(1000)
	b.ReportAllocs()
	b.ResetTimer()
	newStorm(g, b.N).stop()
}

// BenchmarkEdit is one endpoint edit pushed to 500 proxies that hold it.
func BenchmarkEdit(b *testing.B) {
	const streams = 500
	g := newMesh(1000)
	s := newStorm(g, streams)
	defer s.stop()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		next, d := g.edit(i)
		g, i = next, i+1
		s.server.Publish(g, d)
		for _, p := range s.pipes {
			p.await(1)
		}
	}
}
