// Package engine is the data plane: connections in, connections and answers
// out, by one immutable generation.Config, whose functions decide. The engine
// owns sockets, pools and everything that is live.
//
// A connection is package downstream's, a request package exchange's; driver1 and
// driver2 are between them, for clients of HTTP/1.x and of HTTP/2.
//
// Read run.go first, then downstream and exchange.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/driver1"
	"github.com/tullemesh/tulle/internal/proxy/engine/driver2"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/http2"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/telemetry"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
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
	opts Options

	shared   downstream.Shared
	http     driver1.Driver // for HTTP/2 too
	draining atomic.Bool

	// Guarded by mu.
	mu        sync.Mutex
	closed    bool
	stops     stops
	acceptors map[netip.AddrPort]*acceptor
	retired   []*listener.Acceptor
}

// acceptor is a bound address with the listener that it accepts for.
type acceptor struct {
	*listener.Acceptor
	exchange.Place
	name string // guarded by Engine.mu
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
	e := &Engine{opts: o, acceptors: map[netip.AddrPort]*acceptor{}}
	two := http2.NewMemory()
	e.http.Two = &driver2.Driver{Memory: two}
	s := &e.shared
	s.Log, s.DrainTime = o.Log, o.DrainTime
	s.Clock, s.Store = conn.NewClock(), tls.NewStore()
	s.Live = cluster.NewLive(cluster.LiveOptions{Clock: s.Clock, HTTP2: two, TLS: s.Store, Resolver: o.Resolver, Log: o.Log, Registry: o.Registry})
	s.Logs = access.NewLogs(o.OpenLog, o.Registry)
	s.Meters, s.Peers = telemetry.New(o.Registry, o.Self), telemetry.NewPeers(o.Peers)
	two.OnFlood = s.Meters.HTTP2Flooded
	s.Config.Store(generation.NewConfig(generation.Parts{}))
	return e
}

// Config returns the generation in force.
func (e *Engine) Config() *generation.Config { return e.shared.Config.Load() }

// Live returns the live state of the clusters, for status pages.
func (e *Engine) Live() *cluster.Live { return e.shared.Live }

// Secrets returns the live certificates, for status pages.
func (e *Engine) Secrets() *tls.Store { return e.shared.Store }

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
	errs := []error{e.shared.Store.Update(cfg.Secrets())}
	e.shared.Live.Update(cfg.Clusters(), cfg.Assignment)
	errs = append(errs, e.shared.Logs.Prepare(logsOf(cfg)))
	e.shared.Config.Store(cfg)
	errs = append(errs, e.bindLocked(cfg))
	e.shared.Conns.Each(func(d *downstream.Conn) { d.JudgeAgain(cfg) })
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
			e.drainLocked(func(d *downstream.Conn) bool { return d.Place.At == at })
		}
	}
	e.retired = slices.DeleteFunc(e.retired, (*listener.Acceptor).Done)
	e.drainStoppedLocked(cfg)
	var errs []error
	for at, name := range want {
		if a := e.acceptors[at]; a != nil {
			a.name = name
			a.Last.Store(cfg)
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
	refused := e.shared.Meters.Refused
	a := &acceptor{name: name}
	a.At = at
	a.Last.Store(cfg)
	l, err := listener.Listen(at, e.opts.ConnectionsMax, func(c net.Conn) { e.serve(c, a) }, refused.Inc)
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
			if err := e.shared.Store.Refresh(); err != nil {
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
	e.shared.Conns.Each((*downstream.Conn).Abort)
	e.mu.Unlock()
	for _, a := range all {
		a.Wait()
	}
	e.shared.Workers.Close()
	e.shared.Live.Close()
	e.shared.Logs.Close()
	e.shared.Pipes.Close()
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
	e.drainLocked(func(*downstream.Conn) bool { return true })
	e.mu.Unlock()
	deadline, _ := ctx.Deadline()
	half, cancelHalf := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancelHalf()
	e.awaitQuiet(half)
	for _, a := range e.retire() {
		a.WaitRetired()
	}
	if err := e.shared.Conns.AwaitEmpty(ctx); err != nil {
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
	for e.shared.Conns.AwaitEmpty(ctx) == nil {
		before := e.shared.Meters.Conns()
		t.Reset(drainQuiet)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if e.shared.Meters.Conns() == before {
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

// Open is the number of open downstream connections.
func (e *Engine) Open() int { return e.shared.Conns.Count() }

func (e *Engine) drainLocked(which func(*downstream.Conn) bool) {
	until := e.shared.Clock.Now() + int64(e.opts.DrainTime)
	e.shared.Conns.Each(func(d *downstream.Conn) {
		if which(d) {
			d.DrainBy(until)
		}
	})
}

// serve handles a connection from its first byte to its last.
func (e *Engine) serve(c net.Conn, a *acceptor) {
	d := e.shared.Accept(c, &a.Place)
	if d == nil {
		return
	}
	defer e.shared.Conns.Remove(d)
	defer d.Close()
	if !e.add(d) || !d.Open() {
		return
	}
	switch chain := d.Chain.Load(); {
	case chain.HTTP != nil:
		e.http.Serve(d)
	case chain.TCP != nil:
		d.ServeTCP(chain.TCP)
	}
}

// add registers a connection; false: the engine is closing.
func (e *Engine) add(d *downstream.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.shared.Conns.Add(d)
	if e.draining.Load() || e.stops.soon != reachNone && e.stops.soon.covers(e.listenerOf(d.Place)) {
		d.Drain()
	}
	return true
}
