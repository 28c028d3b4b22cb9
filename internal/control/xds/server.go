package xds

import (
	"context"
	"net"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tullemesh/tulle/internal/wire"
)

// Server serves ADS streams from the newest generation.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	opts     Options
	metrics  *metrics
	draining chan struct{} // closed when Run ends

	// Guarded by mu.
	mu      sync.Mutex
	gen     Generation
	streams map[*stream]struct{}
	perNode map[string]int
	lastID  uint64
	drained bool
	running sync.WaitGroup // goroutines of streams
}

// New returns a server without a generation: its streams wait for the first
// Publish.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	return &Server{
		opts:     opts,
		metrics:  newMetrics(opts.Registry),
		draining: make(chan struct{}),
		streams:  map[*stream]struct{}{},
		perNode:  map[string]int{},
	}
}

// Register adds the ADS service to a gRPC server, which must have been made
// with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Publish makes g the newest generation and wakes the streams. d says what may
// differ from the generation published before. It does not wait for streams.
func (s *Server) Publish(g Generation, d Dirty) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen = g
	now := time.Now()
	for st := range s.streams {
		st.offer(g, &d, now)
	}
}

// Run ends streams that take nothing, until ctx ends; then it ends all streams
// (UNAVAILABLE, so that clients reconnect elsewhere) and waits for them.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(max(s.opts.Limits.SendTimeout/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			if !s.drained {
				s.drained = true
				close(s.draining)
			}
			s.mu.Unlock()
			s.running.Wait()
			return nil
		case now := <-tick.C:
			s.endStuck(now)
		}
	}
}

func (s *Server) endStuck(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		since := st.sendingSince.Load()
		if since != 0 && now.UnixNano()-since > int64(s.opts.Limits.SendTimeout) {
			st.end(status.Errorf(codes.DeadlineExceeded, "the client read nothing for %v", s.opts.Limits.SendTimeout))
		}
	}
}

// StreamAggregatedResources serves state of the world.
func (s *Server) StreamAggregatedResources(conn grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	return s.serve(conn, false)
}

// DeltaAggregatedResources serves the incremental protocol.
func (s *Server) DeltaAggregatedResources(conn grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	return s.serve(conn, true)
}

// serve is the handler of one stream. When it returns, gRPC ends the stream's
// context, and with it receive and send, which Run waits for.
func (s *Server) serve(conn grpc.ServerStream, delta bool) error {
	id, err := s.opts.Identify(conn.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	st, err := s.newStream(delta)
	if err != nil {
		return err
	}
	defer s.running.Done()

	s.running.Add(1)
	go func() {
		defer s.running.Done()
		st.end(st.receive(conn))
	}()

	wait := time.NewTimer(s.opts.Limits.NodeTimeout)
	defer wait.Stop()
	var node *wire.Node
	select {
	case node = <-st.first:
	case err := <-st.ended:
		return err
	case <-s.draining:
		return status.Error(codes.Unavailable, "the server is shutting down")
	case <-wait.C:
		return status.Errorf(codes.DeadlineExceeded, "no request came within %v", s.opts.Limits.NodeTimeout)
	}
	if err := s.admit(st, &Client{Node: node, Peer: id.Peer, Plaintext: id.Plaintext}); err != nil {
		return err
	}
	defer s.dismiss(st)

	s.running.Add(1)
	go func() {
		defer s.running.Done()
		st.end(st.send(conn.Context(), conn))
	}()
	st.poke()
	select {
	case err := <-st.ended:
		return err
	case <-s.draining:
		return status.Error(codes.Unavailable, "the server is shutting down")
	}
}

func (s *Server) newStream(delta bool) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained {
		return nil, status.Error(codes.Unavailable, "the server is shutting down")
	}
	s.running.Add(1)
	s.lastID++
	return &stream{
		server: s, id: s.lastID, delta: delta, connected: time.Now(),
		wake: make(chan struct{}, 1), first: make(chan *wire.Node, 1), ended: make(chan error, 1),
		subs: map[string]*subscription{},
	}, nil
}

// admit counts the stream and gives it the newest generation.
func (s *Server) admit(st *stream, c *Client) error {
	st.client = c
	st.key = c.Peer + "|" + c.Node.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) >= s.opts.Limits.Streams {
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, the limit", len(s.streams))
	}
	if s.perNode[st.key] >= s.opts.Limits.StreamsPerNode {
		return status.Errorf(codes.ResourceExhausted, "node %q has %d streams open, the limit", c.Node.ID, s.perNode[st.key])
	}
	s.perNode[st.key]++
	s.streams[st] = struct{}{}
	if s.gen != nil {
		st.pending.add(s.gen, &Dirty{All: true}, time.Now())
	}
	s.metrics.connected.With(c.Node.Metadata.IstioVersion).Add(1)
	return nil
}

func (s *Server) dismiss(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	if s.perNode[st.key]--; s.perNode[st.key] == 0 {
		delete(s.perNode, st.key)
	}
	s.metrics.connected.With(st.client.Node.Metadata.IstioVersion).Add(-1)
}

// Serve runs a gRPC server on lis until ctx ends, then refuses new streams
// (GOAWAY), waits up to grace for those that are open, and closes the rest.
// Streams of an xds.Server end when its own Run does.
func Serve(ctx context.Context, g *grpc.Server, lis net.Listener, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- g.Serve(lis) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	timer := time.AfterFunc(grace, g.Stop)
	defer timer.Stop()
	g.GracefulStop()
	return <-failed
}
