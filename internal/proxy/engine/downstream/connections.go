package downstream

import (
	"context"
	"sync"
)

// Connections are the open connections of an engine. The zero value is ready.
type Connections struct {
	// Guarded by mu.
	mu    sync.Mutex
	all   map[*Conn]struct{}
	empty chan struct{} // closed when all becomes empty, if anybody waits for it
}

// Add makes d one of them.
func (c *Connections) Add(d *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*Conn]struct{}{}
	}
	c.all[d] = struct{}{}
}

// Remove takes d out.
func (c *Connections) Remove(d *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, d)
	if len(c.all) == 0 && c.empty != nil {
		close(c.empty)
		c.empty = nil
	}
}

// Each calls f, which does not wait, with every connection.
func (c *Connections) Each(f func(*Conn)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.all {
		f(d)
	}
}

// Count is the number of open connections.
func (c *Connections) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// AwaitEmpty waits until no connection is open.
func (c *Connections) AwaitEmpty(ctx context.Context) error {
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
