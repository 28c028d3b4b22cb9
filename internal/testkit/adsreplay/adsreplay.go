// Package adsreplay plays recorded xDS streams of a real Istio control plane
// (their format is in the README beside the recordings) to a client, and keeps
// what the client answers.
//
// A recording goes out type by type: the responses of a type when the client
// first asks for it. Later recordings (edits) go to the open stream in the
// order in which they were recorded. Nonces are as recorded, and unique.
package adsreplay

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Recording is a file's responses, in order.
type Recording struct {
	// Delta tells the responses' kind: *DeltaDiscoveryResponse, else
	// *DiscoveryResponse.
	Delta     bool
	Responses []Response
}

// Response is what both kinds of discovery response have.
type Response interface {
	proto.Message
	GetTypeUrl() string
	GetNonce() string
}

// Load reads NAME-delta*.bin or NAME-sotw*.bin.
func Load(path string) (*Recording, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rec := &Recording{Delta: strings.Contains(path, "-delta")}
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, fmt.Errorf("%s: message %d is cut short", path, len(rec.Responses))
		}
		var m Response = new(discoveryv3.DiscoveryResponse)
		if rec.Delta {
			m = new(discoveryv3.DeltaDiscoveryResponse)
		}
		if err := proto.Unmarshal(b[n:n+int(size)], m); err != nil {
			return nil, fmt.Errorf("%s: message %d: %w", path, len(rec.Responses), err)
		}
		rec.Responses = append(rec.Responses, m)
		b = b[n+int(size):]
	}
	return rec, nil
}

// request is what both kinds of discovery request have.
type request interface {
	GetTypeUrl() string
	GetResponseNonce() string
	GetErrorDetail() *rpcstatus.Status
}

// Answer is a client's ACK or NACK.
type Answer struct {
	Type, Nonce string
	// Rejected is the NACK's message; empty in an ACK.
	Rejected string
}

// Server serves one client from a recording.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	first *Recording
	edits chan *Recording

	// Guarded by mu.
	mu      sync.Mutex
	answers []Answer
}

// New returns a server of the recording.
func New(first *Recording) *Server { return &Server{first: first, edits: make(chan *Recording)} }

// Play sends a later recording to the open stream; it waits for the stream.
func (s *Server) Play(rec *Recording) { s.edits <- rec }

// Answers returns what the client has answered so far.
func (s *Server) Answers() []Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Answer(nil), s.answers...)
}

// StreamAggregatedResources plays state of the world; a delta recording makes
// it UNIMPLEMENTED.
func (s *Server) StreamAggregatedResources(conn discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	if s.first.Delta {
		return s.UnimplementedAggregatedDiscoveryServiceServer.StreamAggregatedResources(conn)
	}
	return s.play(conn, func() (request, error) { return conn.Recv() })
}

// DeltaAggregatedResources plays delta, or is UNIMPLEMENTED.
func (s *Server) DeltaAggregatedResources(conn discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if !s.first.Delta {
		return s.UnimplementedAggregatedDiscoveryServiceServer.DeltaAggregatedResources(conn)
	}
	return s.play(conn, func() (request, error) { return conn.Recv() })
}

func (s *Server) play(conn grpc.ServerStream, receive func() (request, error)) error {
	asked := make(chan string)
	failed := make(chan error, 1)
	go func() {
		for {
			r, err := receive()
			if err != nil {
				failed <- err
				return
			}
			if s.note(r) {
				continue
			}
			select {
			case asked <- r.GetTypeUrl():
			case <-conn.Context().Done():
				return
			}
		}
	}()
	played := map[string]bool{}
	for {
		var err error
		select {
		case <-conn.Context().Done():
			return conn.Context().Err()
		case err = <-failed:
		case rec := <-s.edits:
			err = send(conn, rec, "")
		case typeURL := <-asked:
			if !played[typeURL] {
				played[typeURL] = true
				err = send(conn, s.first, typeURL)
			}
		}
		if err != nil {
			return err
		}
	}
}

// note keeps an answer; other requests are for the player.
func (s *Server) note(r request) bool {
	if r.GetResponseNonce() == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, Answer{r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage()})
	return true
}

func send(conn grpc.ServerStream, rec *Recording, typeURL string) error {
	for _, m := range rec.Responses {
		if typeURL != "" && m.GetTypeUrl() != typeURL {
			continue
		}
		if err := conn.SendMsg(m); err != nil {
			return err
		}
	}
	return nil
}
