package identity

import (
	"context"
	"sync"
)

// Source gives a workload's current certificates and says when they change.
type Source interface {
	// Current returns the latest Bundle, nil while there is none.
	Current() *Bundle
	// Watch returns a channel that holds one value after Current has changed,
	// however often, and at once when there is a Bundle already. It ends with
	// ctx, without being closed.
	Watch(ctx context.Context) <-chan struct{}
}

// Publisher is a Source whose Bundle is set by its owner. The zero value is
// ready and has no Bundle.
type Publisher struct {
	mu       sync.Mutex
	current  *Bundle
	watchers map[chan struct{}]struct{}
}

// Publish replaces the current Bundle and wakes the watchers.
func (p *Publisher) Publish(b *Bundle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = b
	for w := range p.watchers {
		wake(w)
	}
}

// Current returns the latest Bundle, nil while there is none.
func (p *Publisher) Current() *Bundle {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// Watch implements Source.
func (p *Publisher) Watch(ctx context.Context) <-chan struct{} {
	w := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watchers == nil {
		p.watchers = make(map[chan struct{}]struct{})
	}
	p.watchers[w] = struct{}{}
	if p.current != nil {
		wake(w)
	}
	context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watchers, w)
	})
	return w
}

// wake sends to a watcher that may not have read its last signal; the channel
// has room for one, so this never waits.
func wake(w chan struct{}) {
	select {
	case w <- struct{}{}:
	default:
	}
}
