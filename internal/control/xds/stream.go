package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tullemesh/tulle/internal/wire"
)

// stream is one ADS stream. Three goroutines serve it: the handler (serve in
// server.go) waits for the end, receive reads requests and never waits for the
// sender, so that a client that sends before it reads can't deadlock with us,
// and send owns all state of the subscriptions.
type stream struct {
	// Fixed at creation.
	server    *Server
	id        uint64
	delta     bool
	connected time.Time
	wake      chan struct{}   // size 1: there is something in the inbox
	first     chan *wire.Node // size 1: the node of the first request
	ended     chan error      // size 1: why the stream ends; the first reason holds

	// Set by the handler before send starts.
	client *Client
	key    string

	// Owned by send.
	gen   Generation
	view  View
	subs  map[string]*subscription
	order []*subscription // subs in the order of sending
	seq   uint64

	// sendingSince is when the response on its way was handed over, in Unix
	// nanoseconds; 0 while none is.
	sendingSince atomic.Int64

	// Guarded by mu.
	mu         sync.Mutex
	inbox      []request
	inboxNames int
	pending    pending
	generation string
	types      []TypeStatus
}

// request is a discovery request of either kind, without its node.
type request struct {
	typeURL, nonce string
	rejected       *rpcstatus.Status

	subscribe, unsubscribe []string          // delta
	initial                map[string]string // delta
	names                  []string          // state of the world: the whole set
}

func (r *request) size() int {
	return len(r.subscribe) + len(r.unsubscribe) + len(r.initial) + len(r.names)
}

// receive reads requests into the inbox until the stream ends.
func (st *stream) receive(conn grpc.ServerStream) error {
	for seen := false; ; {
		r, node, err := st.next(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !seen {
			seen = true
			n, err := wire.ParseNode(node)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			st.first <- n
		}
		if err := st.post(r); err != nil {
			return err
		}
	}
}

// next receives one request. The message is dropped here: only what the sender
// needs is kept.
func (st *stream) next(conn grpc.ServerStream) (request, *corev3.Node, error) {
	if st.delta {
		var m discoveryv3.DeltaDiscoveryRequest
		if err := conn.RecvMsg(&m); err != nil {
			return request{}, nil, err
		}
		return request{
			typeURL: m.GetTypeUrl(), nonce: m.GetResponseNonce(), rejected: m.GetErrorDetail(),
			subscribe: m.GetResourceNamesSubscribe(), unsubscribe: m.GetResourceNamesUnsubscribe(),
			initial: m.GetInitialResourceVersions(),
		}, m.GetNode(), nil
	}
	var m discoveryv3.DiscoveryRequest
	if err := conn.RecvMsg(&m); err != nil {
		return request{}, nil, err
	}
	return request{
		typeURL: m.GetTypeUrl(), nonce: m.GetResponseNonce(), rejected: m.GetErrorDetail(),
		names: m.GetResourceNames(),
	}, m.GetNode(), nil
}

// post puts a request into the inbox, within limits.
func (st *stream) post(r request) error {
	if r.typeURL == "" {
		return status.Error(codes.InvalidArgument, "request without type_url")
	}
	for _, list := range [][]string{r.subscribe, r.names} {
		if slices.ContainsFunc(list, func(n string) bool { return n == "" || len(n) > nameBytesMax }) {
			return status.Errorf(codes.InvalidArgument, "a resource name is empty or longer than %d bytes", nameBytesMax)
		}
	}
	st.mu.Lock()
	st.inbox = append(st.inbox, r)
	st.inboxNames += r.size()
	over := len(st.inbox) > inboxMax || st.inboxNames > 2*st.server.opts.Limits.NamesPerStream
	st.mu.Unlock()
	if over {
		return status.Error(codes.ResourceExhausted, "too many requests while responses wait to be read")
	}
	st.poke()
	return nil
}

// offer tells the stream of a published generation.
func (st *stream) offer(g Generation, d *Dirty, at time.Time) {
	st.mu.Lock()
	st.pending.add(g, d, at)
	st.mu.Unlock()
	st.poke()
}

// end makes the handler return with err.
func (st *stream) end(err error) {
	select {
	case st.ended <- err:
	default:
	}
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// send runs the passes: each takes all that has come since the last one.
func (st *stream) send(ctx context.Context, conn grpc.ServerStream) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-st.wake:
		}
		st.mu.Lock()
		requests, p := st.inbox, st.pending
		st.inbox, st.inboxNames, st.pending = nil, 0, pending{}
		st.mu.Unlock()
		if err := st.turn(conn, requests, p); err != nil {
			return err
		}
		st.report()
	}
}

// turn applies the requests and pushes what is owed.
func (st *stream) turn(conn grpc.ServerStream, requests []request, p pending) error {
	pass := pass{stream: st, conn: conn, dirty: p.merged(), oldGen: st.gen, oldView: st.view}
	if st.gen == nil {
		// The first generation: its lists of names are for the requests.
		if err := pass.adopt(p.gen); err != nil {
			return err
		}
	}
	for i := range requests {
		if err := st.apply(&requests[i]); err != nil {
			return err
		}
		requests[i] = request{} // most of its names are shared now; sending may take long
	}
	if st.gen != p.gen {
		if err := pass.adopt(p.gen); err != nil {
			return err
		}
	}
	if st.gen == nil {
		return nil // nothing is published yet: the answers wait
	}
	if !p.since.IsZero() {
		st.server.metrics.queue.Observe(time.Since(p.since).Seconds())
	}
	if err := pass.run(); err != nil {
		return err
	}
	if !p.since.IsZero() {
		st.server.metrics.convergence.Observe(time.Since(p.since).Seconds())
	}
	return nil
}

// adopt makes a generation the one that the stream serves; nil changes nothing.
func (p *pass) adopt(g Generation) error {
	if g == nil {
		return nil
	}
	view, err := g.View(p.client)
	if err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	if p.stream.gen == nil || view.Key() != p.stream.view.Key() {
		p.dirty.All = true
	}
	p.stream.gen, p.stream.view, p.client.Last = g, view, view
	return nil
}

// apply takes one request into the subscriptions.
func (st *stream) apply(r *request) error {
	sub, err := st.subscription(r.typeURL)
	if err != nil {
		return err
	}
	if sub.started && r.nonce != "" {
		sub.answered(r.nonce, st.nack(r, sub), time.Now())
		// A stale nonce: the client answers an older response and will answer
		// the newest too, with its names as they are then. Delta requests
		// change subscriptions whatever their nonce.
		if !st.delta && r.nonce != sub.status.SentNonce {
			st.server.metrics.expired.With(sub.short).Inc()
			return nil
		}
	}
	if st.delta {
		st.applyDelta(sub, r)
	} else {
		again := sub.started && r.nonce == ""
		sub.started = true
		sub.listNames(r.names, again, st.namesOf(sub))
	}
	names := 0
	for _, s := range st.order {
		names += len(s.owners)
		if !s.wildcard {
			names += s.held.count
		}
	}
	if limit := st.server.opts.Limits.NamesPerStream; r.size() > 0 && names > limit {
		return status.Errorf(codes.ResourceExhausted, "%d resource names on one stream, the limit is %d", names, limit)
	}
	return nil
}

func (st *stream) applyDelta(sub *subscription, r *request) {
	if !sub.started {
		sub.startDelta(r.subscribe, r.initial, st.namesOf(sub))
	} else {
		for _, text := range r.subscribe {
			sub.subscribe(text, true)
		}
	}
	for _, text := range r.unsubscribe {
		sub.unsubscribe(text, func() []string { return st.namesOf(sub) })
	}
}

// namesOf is the list of a type's names in the generation that the stream
// serves, nil before the first one.
func (st *stream) namesOf(sub *subscription) []string {
	if st.gen == nil {
		return nil
	}
	return st.gen.Names(st.view, sub.typeURL)
}

// nack makes the record of a refused response, nil for an accepted one.
func (st *stream) nack(r *request, sub *subscription) *NACK {
	if r.rejected == nil {
		return nil
	}
	n := &NACK{Message: r.rejected.GetMessage(), Resources: wire.ParseRejections(r.rejected.GetMessage())}
	if len(n.Resources) == 0 {
		n.Resources = []wire.Rejection{{Reason: "the client gave no reason"}}
	}
	if len(n.Message) > nackBytesMax {
		n.Message = n.Message[:nackBytesMax]
	}
	st.server.metrics.rejected(sub.short)
	st.server.opts.Log.Warn("proxy refused configuration", slog.String("node", st.client.Node.ID), slog.String("type", sub.short),
		slog.String("resource", n.Resources[0].Name), slog.String("reason", n.Resources[0].Reason), slog.Int("resources", len(n.Resources)))
	return n
}

// nackBytesMax bounds the kept message of a NACK.
const nackBytesMax = 16 << 10

func (st *stream) subscription(typeURL string) (*subscription, error) {
	if sub, ok := st.subs[typeURL]; ok {
		return sub, nil
	}
	if len(st.subs) == typesPerStreamMax {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d resource types on one stream", typesPerStreamMax)
	}
	sub := newSubscription(typeURL)
	sub.status.sotw = !st.delta
	st.subs[typeURL] = sub
	st.order = append(st.order, sub)
	slices.SortStableFunc(st.order, func(a, b *subscription) int { return a.rank - b.rank })
	return sub, nil
}

// transmit sends one response, which waits for the client's flow control.
func (st *stream) transmit(conn grpc.ServerStream, sub *subscription, r *response) error {
	st.seq++
	nonce := strconv.FormatUint(st.id, 36) + "-" + strconv.FormatUint(st.seq, 36)
	version := st.gen.Version()
	r.finish(version, nonce)
	now := time.Now()
	sub.noteSent(st.seq, nonce, version, now)
	sub.recount = true
	st.sendingSince.Store(now.UnixNano())
	err := conn.SendMsg(r)
	st.sendingSince.Store(0)
	if err != nil {
		return fmt.Errorf("send %s: %w", sub.short, err)
	}
	st.server.metrics.pushed(sub.short, r.bytes, time.Since(now))
	return nil
}

// pending is what was published since the stream's last pass. Its size is
// bounded: many changes become one set, a large set becomes "all".
type pending struct {
	gen   Generation
	since time.Time // of the oldest change
	dirty []*Dirty
}

const (
	pendingMax      = 16
	pendingNamesMax = 4096
)

func (p *pending) add(g Generation, d *Dirty, at time.Time) {
	p.gen = g
	if p.since.IsZero() {
		p.since = at
	}
	p.dirty = append(p.dirty, d)
	if len(p.dirty) > pendingMax {
		m := p.merged()
		p.dirty = append(p.dirty[:0:0], &m)
	}
}

// merged is the union of the changes.
func (p *pending) merged() Dirty {
	if len(p.dirty) == 1 {
		return *p.dirty[0]
	}
	out := Dirty{Types: map[string]NameSet{}}
	total := 0
	for _, d := range p.dirty {
		if d.All {
			return Dirty{All: true}
		}
		for typeURL, set := range d.Types {
			have := out.Types[typeURL]
			have.All = have.All || set.All
			if have.Names == nil && len(set.Names) > 0 {
				have.Names = make(map[string]struct{}, len(set.Names))
			}
			for n := range set.Names {
				have.Names[n] = struct{}{}
			}
			total += len(set.Names)
			out.Types[typeURL] = have
		}
	}
	if total > pendingNamesMax && len(p.dirty) > 1 {
		return Dirty{All: true}
	}
	return out
}
