// Package engine is the data plane: connections in, connections and answers
// out, by one immutable generation.Config, whose functions decide. The engine
// owns sockets, pools and everything that is live.
//
// A CONNECT ends here only where a route is for it and says so. HTTP inside
// its tunnel is judged by the listener that took the CONNECT: by its filters,
// and by the virtual host that its own route table has for the tunnel's host
// and port, whatever Host the inner requests have (serve_http1_tunnel.go).
//
// Read run.go first, then downstream.go and exchange.go.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/date"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
	"github.com/tullemesh/tulle/internal/proxy/engine/worker"
)

// drainTimeout bounds a drain where ctx does not, and the connections of a
// removed listener (Istio: drainDuration, 45 s).
const drainTimeout = 45 * time.Second

// Options are what an Engine needs from its surroundings.
type Options struct {
	Registry *observe.Registry
	Log      *slog.Logger
	// Self is this workload, for the labels of metrics.
	Self telemetry.Workload
	// Peers reads and writes Istio's peer metadata headers; nil: peers are
	// known by identity and endpoint metadata alone.
	Peers telemetry.PeerCodec
	// Resolver of DNS clusters; nil is the system's.
	Resolver cluster.Resolver
	// OpenLog opens an access log's path; nil opens files and /dev/std*.
	OpenLog func(path string) (io.WriteCloser, error)
	// ConnectionsMax bounds the connections of one listening address; 0 is
	// limit.ListenerConnectionsMax.
	ConnectionsMax int
	// DrainTime bounds the connections of a removed listener; 0 is 45 s
	// (Istio: drainDuration).
	DrainTime time.Duration
}

// Engine runs configurations: it owns the sockets, the live state of clusters,
// the certificates and everything that counts.
type Engine struct {
	// Fixed at creation.
	opts   Options
	clock  conn.Clock
	live   *cluster.Live
	store  *tls.Store
	logs   *access.Logs
	meters *telemetry.Meters
	peers  *telemetry.Peers

	config    atomic.Pointer[generation.Config]
	draining  atomic.Bool
	buffers   conn.Buffers
	pipes     conn.Pipes
	exchanges sync.Pool
	two       http2Memory
	dates     date.Cache
	speakers  listener.FirstSpeakers

	handshakes handshakes
	watches    watches
	workers    worker.Pool

	// Guarded by mu.
	mu        sync.Mutex
	closed    bool
	stops     stops
	acceptors map[netip.AddrPort]*acceptor
	retired   []*listener.Acceptor
	conns     map[*downstream]struct{}
	idle      chan struct{} // closed when conns becomes empty while draining
}

// acceptor is a bound address with the listener that it accepts for.
type acceptor struct {
	*listener.Acceptor
	name string // guarded by Engine.mu
	at   netip.AddrPort
	// last is the newest generation that has the listener: who connected before
	// it was removed is judged by it.
	last atomic.Pointer[generation.Config]
}

// New returns an engine without configuration.
func New(o Options) *Engine {
	if o.Registry == nil {
		o.Registry = observe.NewRegistry()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ConnectionsMax == 0 {
		o.ConnectionsMax = limit.ListenerConnectionsMax
	}
	if o.DrainTime == 0 {
		o.DrainTime = drainTimeout
	}
	e := &Engine{
		opts: o, clock: conn.NewClock(), store: tls.NewStore(),
		acceptors: map[netip.AddrPort]*acceptor{}, conns: map[*downstream]struct{}{},
	}
	e.two.Memory = http2.NewMemory()
	e.live = cluster.NewLive(cluster.LiveOptions{Clock: e.clock, HTTP2: e.two.Memory, TLS: e.store, Resolver: o.Resolver, Log: o.Log, Registry: o.Registry})
	e.logs = access.NewLogs(o.OpenLog, o.Registry)
	e.meters, e.peers = telemetry.New(o.Registry, o.Self), telemetry.NewPeers(o.Peers)
	e.two.OnFlood = e.meters.HTTP2Flooded
	e.config.Store(generation.NewConfig(generation.Parts{}))
	return e
}

// Config returns the generation in force.
func (e *Engine) Config() *generation.Config { return e.config.Load() }

// Live returns the live state of the clusters, for status pages.
func (e *Engine) Live() *cluster.Live { return e.live }

// Secrets returns the live certificates, for status pages.
func (e *Engine) Secrets() *tls.Store { return e.store }

// Apply makes cfg the generation in force. Endpoints, routes, certificates and
// policies take effect at once; listeners are bound, kept or closed; open
// connections that the new generation refuses drain. The error tells what
// could not be done (an address in use, an unusable secret); all else is done.
func (e *Engine) Apply(cfg *generation.Config) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.applyLocked(cfg)
}

func (e *Engine) applyLocked(cfg *generation.Config) error {
	if e.closed {
		return errors.New("the engine has ended")
	}
	errs := []error{e.store.Update(cfg.Secrets())}
	e.live.Update(cfg.Clusters(), cfg.Assignment)
	errs = append(errs, e.logs.Prepare(logsOf(cfg)))
	e.config.Store(cfg)
	errs = append(errs, e.bindLocked(cfg))
	for d := range e.conns {
		d.judgeAgain(cfg)
	}
	return errors.Join(errs...)
}

// logsOf are the access logs that a configuration uses, by their places in it.
func logsOf(cfg *generation.Config) []*listener.AccessLog {
	var out []*listener.AccessLog
	add := func(logs []listener.AccessLog) {
		for i := range logs {
			out = append(out, &logs[i])
		}
	}
	for _, l := range cfg.Listeners() {
		add(l.Spec().AccessLog)
		chains := l.Spec().Chains
		if l.Spec().Default != nil {
			chains = append(chains[:len(chains):len(chains)], l.Spec().Default)
		}
		for _, c := range chains {
			if c.HTTP != nil {
				add(c.HTTP.AccessLog)
			}
			if c.TCP != nil {
				add(c.TCP.AccessLog)
			}
		}
	}
	return out
}

// bindLocked opens and closes listening sockets. An address that stays keeps
// its socket whatever else changes.
func (e *Engine) bindLocked(cfg *generation.Config) error {
	want := map[netip.AddrPort]string{}
	for _, l := range cfg.Listeners() {
		if spec := l.Spec(); spec.BindToPort {
			if e.stops.now.covers(l) {
				continue
			}
			for _, a := range spec.Addresses {
				want[a] = spec.Name
			}
		}
	}
	for at, a := range e.acceptors {
		if want[at] == "" {
			delete(e.acceptors, at)
			a.Retire()
			e.retired = append(e.retired, a.Acceptor)
			e.opts.Log.Info("listener closed", slog.String("listener", a.name), slog.Any("address", at))
			e.drainLocked(func(d *downstream) bool { return d.acceptor.at == at })
		}
	}
	e.retired = slices.DeleteFunc(e.retired, (*listener.Acceptor).Done)
	e.drainStoppedLocked(cfg)
	var errs []error
	for at, name := range want {
		if a := e.acceptors[at]; a != nil {
			a.name = name
			a.last.Store(cfg)
			continue
		}
		if e.draining.Load() {
			continue
		}
		if err := e.listenLocked(at, name, cfg); err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) listenLocked(at netip.AddrPort, name string, cfg *generation.Config) error {
	for _, r := range e.retired {
		if r.Addr().Port() == at.Port() {
			r.Close() // it would keep the address for a moment
		}
	}
	refused := e.meters.Refused
	a := &acceptor{name: name, at: at}
	a.last.Store(cfg)
	l, err := listener.Listen(at, e.opts.ConnectionsMax, func(c netConn) { e.serve(c, a) }, refused.Inc)
	if err != nil {
		return err
	}
	a.Acceptor = l
	e.acceptors[at] = a
	e.opts.Log.Info("listener bound", slog.String("listener", name), slog.Any("address", l.Addr()))
	return nil
}

// Listening returns the bound address of each configured one: they differ when
// port 0 was asked for.
func (e *Engine) Listening() map[netip.AddrPort]netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[netip.AddrPort]netip.AddrPort, len(e.acceptors))
	for at, a := range e.acceptors {
		out[at] = a.Addr()
	}
	return out
}

// refreshEvery is how often certificate files are looked at.
const refreshEvery = 5 * time.Second

// Run keeps certificate files fresh until ctx ends, then closes every socket
// and waits for all that the engine started. Drain comes first when
// connections should end by themselves.
func (e *Engine) Run(ctx context.Context) error {
	t := time.NewTicker(refreshEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			e.close()
			return nil
		case <-t.C:
			if err := e.store.Refresh(); err != nil {
				e.opts.Log.Error("certificate files not usable, handshakes that need them fail", slog.Any("error", err))
			}
		}
	}
}

func (e *Engine) close() {
	e.mu.Lock()
	e.closed = true
	if e.stops.timer != nil {
		e.stops.timer.Stop()
	}
	all := e.retired
	for _, a := range e.acceptors {
		all = append(all, a.Acceptor)
	}
	e.acceptors = map[netip.AddrPort]*acceptor{}
	e.mu.Unlock()
	for _, a := range all {
		a.Close()
	}
	e.mu.Lock()
	for d := range e.conns {
		d.abort()
	}
	e.mu.Unlock()
	for _, a := range all {
		a.Wait()
	}
	e.workers.Close()
	e.live.Close()
	e.logs.Close()
	e.pipes.Close()
}

// Drain lets what is open end. Who connects meanwhile is still served, because
// others may not know yet that we go, and is told to go elsewhere (Connection:
// close, GOAWAY). When nobody is connected, or half of the time that ctx leaves
// is over, nobody new is taken; Drain returns when the last connection has
// ended or ctx does.
func (e *Engine) Drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	e.mu.Lock()
	e.draining.Store(true)
	e.drainLocked(func(*downstream) bool { return true })
	e.mu.Unlock()
	deadline, _ := ctx.Deadline()
	half, cancelHalf := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancelHalf()
	e.awaitQuiet(half)
	for _, a := range e.retire() {
		a.WaitRetired()
	}
	if err := e.awaitIdle(ctx); err != nil {
		return fmt.Errorf("drain: %d connections are still open: %w", e.Open(), err)
	}
	return nil
}

// drainQuiet is how long nobody is connected when nobody is expected any more:
// a client that was told to reconnect does it at once.
const drainQuiet = 200 * time.Millisecond

// awaitQuiet waits until nobody has been connected for a while.
func (e *Engine) awaitQuiet(ctx context.Context) {
	t := time.NewTimer(drainQuiet)
	defer t.Stop()
	for e.awaitIdle(ctx) == nil {
		before := e.meters.Conns()
		t.Reset(drainQuiet)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if e.meters.Conns() == before {
			return
		}
	}
}

// retire closes all listening sockets in their time.
func (e *Engine) retire() (gone []*listener.Acceptor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for at, a := range e.acceptors {
		delete(e.acceptors, at)
		a.Retire()
		e.retired = append(e.retired, a.Acceptor)
	}
	return slices.Clone(e.retired)
}

// awaitIdle waits until no connection is open.
func (e *Engine) awaitIdle(ctx context.Context) error {
	e.mu.Lock()
	idle := make(chan struct{})
	e.idle = idle
	if len(e.conns) == 0 {
		close(idle)
		e.idle = nil
	}
	e.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Open is the number of open downstream connections.
func (e *Engine) Open() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.conns)
}

func (e *Engine) drainLocked(which func(*downstream) bool) {
	until := e.clock.Now() + int64(e.opts.DrainTime)
	for d := range e.conns {
		if which(d) {
			d.drain()
			d.guard.Set(slotDrain, until)
		}
	}
}

// add registers a connection; false: the engine is closing.
func (e *Engine) add(d *downstream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.conns[d] = struct{}{}
	if e.draining.Load() || e.stops.soon != reachNone && e.stops.soon.covers(e.listenerOf(d.acceptor)) {
		d.drain()
	}
	return true
}

func (e *Engine) remove(d *downstream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, d)
	if len(e.conns) == 0 && e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}
