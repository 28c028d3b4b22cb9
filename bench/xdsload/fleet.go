package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// fleet is all proxies and what they have received.
type fleet struct {
	addr    string
	delta   bool
	creds   credentials.TransportCredentials
	reader  *reader
	proxies []*proxy
	running sync.WaitGroup

	totals  counts
	byType  map[string]*counts // fixed keys
	errs    atomic.Int64       // streams that ended
	lastMsg atomic.Int64       // Unix nanoseconds of the latest response
	marker  atomic.Pointer[marker]
}

type counts struct{ msgs, bytes, resources atomic.Int64 }

// marker is the change that a phase waits for.
type marker struct {
	types []string
	text  []byte
	done  chan struct{} // closed when all proxies have it

	// Guarded by mu.
	mu   sync.Mutex
	at   []time.Time // by proxy; zero until seen
	left int
}

func (f *fleet) count(r response, size int, now time.Time) {
	f.lastMsg.Store(now.UnixNano())
	for _, c := range []*counts{&f.totals, f.byType[r.typeURL]} {
		if c != nil {
			c.msgs.Add(1)
			c.bytes.Add(int64(size))
			c.resources.Add(int64(len(r.resources)))
		}
	}
}

func (f *fleet) mark(id int, r response, now time.Time) {
	m := f.marker.Load()
	if m == nil || !m.matches(r) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at[id].IsZero() {
		m.at[id] = now
		if m.left--; m.left == 0 {
			close(m.done)
		}
	}
}

// latencies are the times from start to the arrival at each proxy that has the
// change.
func (m *marker) latencies(start time.Time) []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []time.Duration
	for _, t := range m.at {
		if !t.IsZero() {
			out = append(out, t.Sub(start))
		}
	}
	return out
}

const (
	// reconnectsMax bounds the streams that one proxy opens.
	reconnectsMax  = 50
	reconnectDelay = 200 * time.Millisecond
)

// start lets proxies from..to connect, and reconnect with growing delays as
// Envoy does.
func (f *fleet) start(ctx context.Context, from, to int) {
	for _, p := range f.proxies[from:to] {
		p.started = time.Now()
		f.running.Go(func() {
			for try := 1; try <= reconnectsMax; try++ {
				err := p.run(ctx)
				if ctx.Err() != nil {
					return
				}
				if f.errs.Add(1) <= 5 {
					fmt.Printf("  proxy %d: the stream ended: %v\n", p.id, err)
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Duration(min(try, 10)) * reconnectDelay):
				}
			}
		})
	}
}

// await waits until proxies from..to are ready, at most limit, and returns how
// long each took since the first of them started.
func (f *fleet) await(from, to int, limit time.Duration) []time.Duration {
	end := time.After(limit)
	start := f.proxies[from].started
	var out []time.Duration
	expired := false
	for _, p := range f.proxies[from:to] {
		if !expired {
			select {
			case <-p.readyCh:
			case <-end:
				expired = true
			}
		}
		select {
		case <-p.readyCh:
			out = append(out, p.ready.Sub(start))
		default:
		}
	}
	return out
}

// settle waits until nothing has come for quiet.
func (f *fleet) settle(quiet time.Duration) {
	end := time.Now().Add(time.Minute)
	for time.Now().Before(end) {
		rest := quiet - time.Since(time.Unix(0, f.lastMsg.Load()))
		if rest <= 0 {
			return
		}
		time.Sleep(rest)
	}
}
