// Package sds serves a workload's certificates to the Envoy beside it.
//
// In comes an identity.Source, out goes Envoy's Secret Discovery Service v3
// over a Unix socket that only the owner can open: secret "default" (chain and
// key) and secret "ROOTCA" (roots), as Istio's agent names them. Streams of the
// state-of-the-world and of the delta form are served; FetchSecrets is not
// implemented. Each change of the source is pushed to the streams that hold
// what changed. A stream's state belongs to its handler.
//
// Read sds.go first (the streams), then socket.go; what is sent is agent/secret.
package sds

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tullemesh/tulle/internal/agent/secret"
	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/wire"
)

// Server serves the secrets of one workload.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer

	// Fixed at creation.
	source identity.Source
	log    *slog.Logger

	streams atomic.Int64 // open now
}

// New returns a server of the source's certificates; a nil log discards.
func New(source identity.Source, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{source: source, log: log}
}

// Serve serves on a listener, usually of Listen, until ctx ends; it then
// closes the listener and all streams, waits for them and returns nil.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(limit.SecretRequestBytesMax), grpc.WaitForHandlers(true))
	secretv3.RegisterSecretDiscoveryServiceServer(server, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		server.Stop()
	})
	err := server.Serve(listener)
	if stop() {
		server.Stop() // the listener broke by itself
	} else {
		<-stopped
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve secrets: %w", err)
}

// StreamSecrets implements the state-of-the-world form.
func (s *Server) StreamSecrets(stream grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	sub := newSubscription()
	receive := func() error {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		s.logRefusal(stream.Context(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
		if err := checkType(r.GetTypeUrl()); err != nil {
			return err
		}
		unknown, err := sub.replace(r.GetResponseNonce(), r.GetResourceNames())
		s.logUnknown(stream.Context(), unknown)
		return err
	}
	send := func(u update) error {
		response := &discoveryv3.DiscoveryResponse{TypeUrl: wire.SecretType, Nonce: u.nonce}
		for _, x := range u.secrets {
			response.Resources = append(response.Resources, x.Body)
			// One version for the response: it names all that is in it.
			response.VersionInfo += x.Version
		}
		return stream.Send(response)
	}
	return s.serve(stream.Context(), sub, receive, send)
}

// DeltaSecrets implements the delta form.
func (s *Server) DeltaSecrets(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	sub := newSubscription()
	receive := func() error {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		s.logRefusal(stream.Context(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
		if err := checkType(r.GetTypeUrl()); err != nil {
			return err
		}
		unknown, err := sub.change(r.GetResourceNamesSubscribe(), r.GetResourceNamesUnsubscribe(), r.GetInitialResourceVersions())
		s.logUnknown(stream.Context(), unknown)
		return err
	}
	send := func(u update) error {
		response := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: wire.SecretType, Nonce: u.nonce, RemovedResources: u.unknown}
		for _, x := range u.secrets {
			response.Resources = append(response.Resources, &discoveryv3.Resource{Name: x.Name, Version: x.Version, Resource: x.Body})
			response.SystemVersionInfo += x.Version
		}
		return stream.Send(response)
	}
	return s.serve(stream.Context(), sub, receive, send)
}

// serve runs one stream: this goroutine receives, another one sends, and both
// have ended when it returns.
func (s *Server) serve(ctx context.Context, sub *subscription, receive func() error, send func(update) error) error {
	if s.streams.Add(1) > limit.SecretStreamsMax {
		s.streams.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "more than %d secret streams", limit.SecretStreamsMax)
	}
	defer s.streams.Add(-1)
	ctx, cancel := context.WithCancel(ctx)
	changed := s.source.Watch(ctx)
	var pusher sync.WaitGroup
	pusher.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-sub.wake:
			}
			secrets, err := secret.Resources(s.source.Current())
			if err != nil {
				s.log.ErrorContext(ctx, "secrets not sent", slog.Any("error", err))
				continue
			}
			if u := sub.due(secrets); len(u.secrets) > 0 || len(u.unknown) > 0 {
				if send(u) != nil {
					return // the stream is broken, so receive fails too
				}
			}
		}
	})
	var err error
	for err == nil {
		err = receive()
	}
	cancel()
	pusher.Wait()
	if _, ok := status.FromError(err); ok {
		return err
	}
	return nil // the client has ended the stream
}

func checkType(url string) error {
	if url != wire.SecretType {
		return status.Errorf(codes.InvalidArgument, "type %.128q: this socket serves %s only", url, wire.SecretType)
	}
	return nil
}

func (s *Server) logRefusal(ctx context.Context, nonce, message string) {
	if message != "" {
		s.log.WarnContext(ctx, "secret refused by the proxy", slog.String("nonce", nonce), slog.String("error", message))
	}
}

func (s *Server) logUnknown(ctx context.Context, names []string) {
	if len(names) > 0 {
		s.log.WarnContext(ctx, "unknown secret asked for", slog.Any("names", names), slog.Any("known", []string{secret.Default, secret.RootCA}))
	}
}

// update is one response.
type update struct {
	nonce   string
	secrets []*wire.Resource
	unknown []string
}

// subscription is what one stream's client has asked for and holds. The
// receiving and the sending side share it.
type subscription struct {
	wake chan struct{} // holds a value when something may be due

	mu      sync.Mutex
	nonces  uint64            // the last one sent
	held    map[string]string // subscribed name → version sent; "" when it must be sent
	unknown []string          // to be told as removed
}

func newSubscription() *subscription {
	return &subscription{wake: make(chan struct{}, 1), held: map[string]string{}}
}

// replace takes a state-of-the-world request: exactly these names. One that
// answers an older response than the last is stale and changes nothing (xDS
// protocol, "ACK and NACK": nonces).
func (u *subscription) replace(nonce string, names []string) (unknown []string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if nonce != "" && nonce != strconv.FormatUint(u.nonces, 10) {
		return nil, nil
	}
	held := map[string]string{}
	for _, name := range names {
		version, ok := u.held[name]
		if !ok && !secret.Known(name) {
			unknown = append(unknown, name)
		}
		held[name] = version
	}
	if err := u.setLocked(held); err != nil {
		return nil, err
	}
	return unknown, nil
}

// change takes a delta request. A name subscribed again is sent again, unless
// the client says which version it holds from an earlier stream.
func (u *subscription) change(subscribe, unsubscribe []string, initial map[string]string) (unknown []string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	held := maps.Clone(u.held)
	for _, name := range unsubscribe {
		delete(held, name)
	}
	for _, name := range subscribe {
		held[name] = initial[name]
		if !secret.Known(name) {
			unknown = append(unknown, name)
		}
	}
	if err := u.setLocked(held); err != nil {
		return nil, err
	}
	u.unknown = append(u.unknown, unknown...)
	return unknown, nil
}

// setLocked replaces what is subscribed, all of it or nothing, and wakes the
// sending side.
func (u *subscription) setLocked(held map[string]string) error {
	for name := range held {
		if len(held) > limit.SecretNamesMax || len(name) > limit.SecretNameBytesMax {
			return status.Errorf(codes.ResourceExhausted, "a stream may ask for %d secrets with names of %d bytes", limit.SecretNamesMax, limit.SecretNameBytesMax)
		}
	}
	u.held = held
	select {
	case u.wake <- struct{}{}:
	default:
	}
	return nil
}

// due returns what the client lacks and takes it as sent: a version that the
// client refuses is not sent again, the next one is.
func (u *subscription) due(secrets []*wire.Resource) update {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := update{unknown: u.unknown}
	u.unknown = nil
	for _, x := range secrets {
		if version, ok := u.held[x.Name]; ok && version != x.Version {
			u.held[x.Name] = x.Version
			out.secrets = append(out.secrets, x)
		}
	}
	if len(out.secrets) > 0 || len(out.unknown) > 0 {
		u.nonces++
		out.nonce = strconv.FormatUint(u.nonces, 10)
	}
	return out
}
