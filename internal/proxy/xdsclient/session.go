package xdsclient

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tullemesh/tulle/internal/wire"
)

// session is one stream. Its loop runs in Run's goroutine; a reader and a
// writer serve it, so that neither waits for the other: a server may stop
// reading while it writes.
type session struct {
	*Client
	delta bool
	conn  grpc.ClientStream
	out   outbox

	// Owned by the loop.
	sent     map[string]map[string]struct{} // names asked for, by type
	nonces   map[string]string
	missing  map[string]map[string]time.Time // state of the world: when absence is confirmed
	answered bool
}

// stream opens a stream and serves it until it ends. answered reports whether
// the server sent anything.
func (c *Client) stream(ctx context.Context, conn *grpc.ClientConn) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{
		Client: c, delta: c.mode != SotW, out: outbox{ready: make(chan struct{}, 1)},
		sent: map[string]map[string]struct{}{}, nonces: map[string]string{}, missing: map[string]map[string]time.Time{},
	}
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	s.conn, err = conn.NewStream(ctx, desc, c.method())
	if err != nil {
		cancel()
		return false, err
	}
	received := make(chan message)
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- s.read(ctx, received) })
	wg.Go(func() { failed <- s.write(ctx) })
	err = s.loop(ctx, received, failed)
	cancel()
	wg.Wait()
	return s.answered, err
}

// The methods of Envoy's Secret Discovery Service. Their generated package is
// not linked for two names: it brings the annotations of Google's HTTP mapping.
const (
	streamSecrets = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
	deltaSecrets  = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
)

func (c *Client) method() string {
	switch {
	case c.opts.Service == SDS && c.mode == SotW:
		return streamSecrets
	case c.opts.Service == SDS:
		return deltaSecrets
	case c.mode == SotW:
		return discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName
	}
	return discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName
}

func (s *session) loop(ctx context.Context, received <-chan message, failed <-chan error) error {
	timer := time.NewTimer(absenceTimeout)
	defer timer.Stop()
	if err := s.sync(); err != nil {
		return err
	}
	for {
		if at, ok := s.nextAbsence(); ok {
			timer.Reset(time.Until(at))
		}
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
			return err
		case <-s.wake:
			err = s.sync()
		case <-timer.C:
			s.confirmAbsence(ctx, time.Now())
		case m := <-received:
			s.answered = true
			s.connected()
			err = s.take(ctx, m)
		}
		if err != nil {
			return err
		}
	}
}

// sync asks for what is wanted and was not asked for on this stream.
func (s *session) sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, typeURL := range s.typesLocked() {
		ts := s.types[typeURL]
		sent, again := s.sent[typeURL]
		var subscribe, unsubscribe []string
		for n := range ts.want {
			if _, ok := sent[n]; !ok {
				subscribe = append(subscribe, n)
			}
		}
		for n := range sent {
			if _, ok := ts.want[n]; !ok {
				unsubscribe = append(unsubscribe, n)
			}
		}
		if len(subscribe)+len(unsubscribe) == 0 {
			continue
		}
		slices.Sort(subscribe)
		slices.Sort(unsubscribe)
		s.sent[typeURL] = maps.Clone(ts.want)
		var err error
		if s.delta {
			err = s.askDelta(typeURL, ts, subscribe, unsubscribe, !again)
		} else {
			s.awaitNames(typeURL, ts, subscribe, unsubscribe)
			err = s.askSotw(typeURL, ts, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) askDelta(typeURL string, ts *typeState, subscribe, unsubscribe []string, first bool) error {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: subscribe, ResourceNamesUnsubscribe: unsubscribe}
	if first {
		// The wildcard alone is asked for by an empty list, which older servers
		// know too.
		if len(subscribe) == 1 && subscribe[0] == Wildcard {
			r.ResourceNamesSubscribe = nil
		}
		r.InitialResourceVersions = make(map[string]string, len(ts.accepted))
		for n, res := range ts.accepted {
			r.InitialResourceVersions[n] = res.Version
		}
	}
	return s.out.add(r)
}

func (s *session) askSotw(typeURL string, ts *typeState, refused *rpcstatus.Status) error {
	names := slices.Sorted(maps.Keys(s.sent[typeURL]))
	if len(names) == 1 && names[0] == Wildcard {
		names = nil
	}
	return s.out.add(&discoveryv3.DiscoveryRequest{
		TypeUrl: typeURL, ResourceNames: names, VersionInfo: ts.version, ResponseNonce: s.nonces[typeURL], ErrorDetail: refused,
	})
}

// take applies a response and answers it.
func (s *session) take(ctx context.Context, m message) error {
	if _, ok := s.sent[m.typeURL]; !ok {
		s.opts.Log.Warn("response of a type that nobody asked for is ignored", slog.String("type", m.typeURL))
		return nil
	}
	s.nonces[m.typeURL] = m.nonce
	u := s.differ(m)
	refused := m.refused
	if len(u.Added)+len(u.Removed) > 0 || u.Full {
		refused = append(refused, s.opts.Handler.Apply(ctx, u)...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ts := s.typeLocked(m.typeURL)
	ts.settle(u, refused, time.Now())
	var detail *rpcstatus.Status
	if len(refused) > 0 {
		detail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: wire.FormatRejections(refused)}
		s.opts.Log.Warn("configuration refused, the last good one stays", slog.String("type", m.typeURL),
			slog.String("resource", refused[0].Name), slog.String("reason", refused[0].Reason), slog.Int("resources", len(refused)))
	} else {
		ts.version = m.version
	}
	if s.delta {
		return s.out.add(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.typeURL, ResponseNonce: m.nonce, ErrorDetail: detail})
	}
	return s.askSotw(m.typeURL, ts, detail)
}

// differ leaves of a response what differs from the accepted resources, and
// adds what its absence from a complete response removes.
func (s *session) differ(m message) Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	ts := s.typeLocked(m.typeURL)
	u := Update{Type: m.typeURL, Version: m.version, Nonce: m.nonce, Removed: m.removed, Aliases: m.aliases}
	present := make(map[string]struct{}, len(m.resources))
	for _, r := range m.resources {
		present[r.Name] = struct{}{}
		delete(s.missing[m.typeURL], r.Name)
		if !ts.wanted(r.Name) && !ts.wantsAlias(r.Name, m.aliases) {
			continue // it crossed our unsubscription
		}
		old, ok := ts.accepted[r.Name]
		if !ok || old.Version != r.Version || !bytes.Equal(old.Body.GetValue(), r.Body.GetValue()) {
			u.Added = append(u.Added, r)
		}
	}
	for _, r := range m.refused {
		present[r.Name] = struct{}{}
	}
	if s.delta || m.typeURL != wire.ClusterType && m.typeURL != wire.ListenerType {
		return u
	}
	u.Full = true
	for _, n := range slices.Sorted(maps.Keys(ts.accepted)) {
		if _, ok := present[n]; !ok {
			u.Removed = append(u.Removed, n)
		}
	}
	return u
}

// awaitNames starts the clock of names that state of the world can't deny.
func (s *session) awaitNames(typeURL string, ts *typeState, subscribe, unsubscribe []string) {
	if s.missing[typeURL] == nil {
		s.missing[typeURL] = map[string]time.Time{}
	}
	at := time.Now().Add(absenceTimeout)
	for _, n := range subscribe {
		if _, ok := ts.accepted[n]; !ok && n != Wildcard {
			s.missing[typeURL][n] = at
		}
	}
	for _, n := range unsubscribe {
		delete(s.missing[typeURL], n)
	}
}

func (s *session) nextAbsence() (at time.Time, ok bool) {
	for _, names := range s.missing {
		for _, t := range names {
			if !ok || t.Before(at) {
				at, ok = t, true
			}
		}
	}
	return at, ok
}

func (s *session) confirmAbsence(ctx context.Context, now time.Time) {
	for _, typeURL := range slices.Sorted(maps.Keys(s.missing)) {
		var names []string
		for n, at := range s.missing[typeURL] {
			if !at.After(now) {
				names = append(names, n)
				delete(s.missing[typeURL], n)
			}
		}
		if len(names) > 0 {
			slices.Sort(names)
			s.opts.Handler.Apply(ctx, Update{Type: typeURL, Removed: names})
		}
	}
}

// outboxMax bounds the requests that wait for a server that does not read.
const outboxMax = 4096

var errOutbox = errors.New("the server reads no requests")

// outbox holds requests until the writer has sent them.
type outbox struct {
	ready chan struct{} // size 1

	// Guarded by mu.
	mu    sync.Mutex
	queue []proto.Message
}

func (o *outbox) add(m proto.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == outboxMax {
		return errOutbox
	}
	o.queue = append(o.queue, m)
	select {
	case o.ready <- struct{}{}:
	default:
	}
	return nil
}

func (o *outbox) takeAll() []proto.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queue
	o.queue = nil
	return q
}

// write sends requests; the first one carries the node.
func (s *session) write(ctx context.Context) error {
	first := true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.out.ready:
		}
		for _, m := range s.out.takeAll() {
			if first {
				switch r := m.(type) {
				case *discoveryv3.DeltaDiscoveryRequest:
					r.Node = s.opts.Node
				case *discoveryv3.DiscoveryRequest:
					r.Node = s.opts.Node
				}
				first = false
			}
			if err := s.conn.SendMsg(m); err != nil {
				// The reader knows why the stream has ended (io.EOF here).
				<-ctx.Done()
				return ctx.Err()
			}
		}
	}
}
