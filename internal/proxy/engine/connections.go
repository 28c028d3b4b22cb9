package engine

import (
	"context"
	"sync"
)

// connections are the open connections of an engine. The zero value is ready.
type connections struct {
	// Guarded by mu.
	mu    sync.Mutex
	all   map[*downstream]struct{}
	empty chan struct{} // closed when all becomes empty, if anybody waits for it
}

func (c *connections) add(d *downstream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*downstream]struct{}{}
	}
	c.all[d] = struct{}{}
}

func (c *connections) remove(d *downstream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, d)
	if len(c.all) == 0 && c.empty != nil {
		close(c.empty)
		c.empty = nil
	}
}

// each calls f, which does not wait, with every connection.
func (c *connections) each(f func(*downstream)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.all {
		f(d)
	}
}

// count is the number of open connections.
func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// awaitEmpty waits until no connection is open.
func (c *connections) awaitEmpty(ctx context.Context) error {
	c.mu.Lock()
	if len(c.all) == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.empty == nil {
		c.empty = make(chan struct{})
	}
	empty := c.empty
	c.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
