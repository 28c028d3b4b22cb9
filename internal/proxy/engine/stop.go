package engine

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/tullemesh/tulle/internal/proxy/engine/downstream"
	"github.com/tullemesh/tulle/internal/proxy/engine/exchange"
	"github.com/tullemesh/tulle/internal/proxy/engine/generation"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// ListenerDrain says which listeners end and how, while the process goes on
// (Envoy: POST /drain_listeners).
type ListenerDrain struct {
	// InboundOnly: those of traffic direction inbound, else all.
	InboundOnly bool
	// Graceful: their clients are asked to go elsewhere, and may still come, for
	// Options.DrainTime; else they take nobody new from now on, and open
	// connections go on.
	Graceful bool
	// SkipExit: they stay when that time is over, and go on to ask.
	SkipExit bool
}

// reach is which listeners something is for.
type reach uint8

// The reaches; each holds those before it.
const (
	reachNone reach = iota
	reachInbound
	reachAll
)

// covers reports whether the listener is one of them; nil is none that is known.
func (r reach) covers(l *listener.Matcher) bool {
	switch r {
	case reachNone:
		return false
	case reachInbound:
		return l != nil && l.Spec().Direction == listener.Inbound
	}
	return true
}

// stops is what was asked of the engine's listeners (DrainListeners).
type stops struct {
	// now is whose sockets are closed for good, soon whose clients are asked to
	// go elsewhere.
	now, soon reach
	timer     *time.Timer // from soon to now; nil: no graceful drain was asked for
	// closed are the addresses that are configured and not listened at.
	closed map[netip.AddrPort]struct{}
}

// DrainListeners ends listeners, now or after a drain. A second graceful drain
// does nothing (Envoy).
func (e *Engine) DrainListeners(d ListenerDrain) {
	which := reachAll
	if d.InboundOnly {
		which = reachInbound
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
	case !d.Graceful:
		e.stopLocked(which)
	case e.stops.timer == nil:
		e.stops.soon = which
		e.shared.Conns.Each(func(c *downstream.Conn) {
			if which.covers(e.listenerOf(c.Place)) {
				c.Drain()
			}
		})
		e.stops.timer = time.AfterFunc(e.opts.DrainTime, func() {
			if d.SkipExit {
				return
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if !e.closed {
				e.stopLocked(which)
			}
		})
	}
}

// stopLocked closes listening sockets for good; connections go on.
func (e *Engine) stopLocked(which reach) {
	e.stops.now = max(e.stops.now, which)
	for at, a := range e.acceptors {
		if !which.covers(e.listenerOf(&a.Place)) {
			continue
		}
		if e.stops.closed == nil {
			e.stops.closed = map[netip.AddrPort]struct{}{}
		}
		e.stops.closed[at] = struct{}{}
		delete(e.acceptors, at)
		a.Retire()
		e.retired = append(e.retired, a.Acceptor)
		e.opts.Log.Info("listener stopped", slog.String("listener", a.name), slog.Any("address", at))
	}
}

// drainStoppedLocked drains the connections of stopped listeners that are no
// longer configured.
func (e *Engine) drainStoppedLocked(cfg *generation.Config) {
	for at := range e.stops.closed {
		if cfg.At(at) == nil {
			delete(e.stops.closed, at)
			e.drainLocked(func(d *downstream.Conn) bool { return d.Place.At == at })
		}
	}
}

// listenerOf is the listener that accepts at p, in the newest generation that
// has it.
func (e *Engine) listenerOf(p *exchange.Place) *listener.Matcher {
	if l := e.Config().At(p.At); l != nil {
		return l
	}
	return p.Last.Load().At(p.At)
}
