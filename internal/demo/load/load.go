// Package load sends requests at a fixed rate and counts what came back.
//
// In comes a rate and a function that sends one request; out go counts, latencies and the share of each version, readable at any time
// while it runs. The load is open: a request is sent when its time has come, whether or not earlier ones were answered, and its latency
// counts from that time, so that a stall of the server shows as latency and not as fewer requests. Run owns the senders; Stats may
// be called from anywhere. Read this file first, then histogram.go.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bounds of a load, so that a slip of the keyboard does not become an attack on the own machine.
const (
	// RateMax bounds Config.Rate, in requests per second.
	RateMax = 20_000
	// InFlightMax bounds Config.InFlight.
	InFlightMax = 4096
	// versionsMax bounds the versions that are counted by name; others count as "other".
	versionsMax = 16
)

// Result is what a sender saw of one request.
type Result struct {
	// Status is the HTTP status; 0 when there was no answer.
	Status int
	// Version is the version that answered, when the answer named one.
	Version string
	// Err is why there was no answer.
	Err error
}

// Config is what to send.
type Config struct {
	// Rate is in requests per second, above 0 and at most RateMax.
	Rate float64
	// InFlight bounds requests without an answer, 1 to InFlightMax; a request whose time comes when they are all taken is dropped and counted.
	InFlight int
	// Timeout ends one request; it must be above 0.
	Timeout time.Duration
	// Send sends request number n, counted from 0, and waits for its whole answer. It is called from many goroutines.
	Send func(ctx context.Context, n uint64) Result
}

// Generator is one load. Make it with New.
type Generator struct {
	config Config

	// Guarded by mu.
	mu    sync.Mutex
	stats Stats
	times histogram
}

// Stats are the counts since the start.
type Stats struct {
	// Started is when the first request was due; zero before Run.
	Started time.Time
	// Sent counts requests given to Send, Dropped those that found InFlight requests unanswered.
	Sent, Dropped uint64
	// OK counts answers below 400, ClientErrors 4xx, ServerErrors 5xx, Failed requests without an answer.
	OK, ClientErrors, ServerErrors, Failed uint64
	// Versions counts answers by the version that they named.
	Versions map[string]uint64
	// P50, P95, P99 and Max are latencies of all answered and failed requests, from the time that each was due.
	P50, P95, P99, Max time.Duration
	// LastError is the newest Result.Err; empty when there was none.
	LastError string
}

// Answered counts the requests that are over.
func (s Stats) Answered() uint64 { return s.OK + s.ClientErrors + s.ServerErrors + s.Failed }

// Success is the share of requests that are over and were OK, 0 to 1; 1 when there are none.
func (s Stats) Success() float64 {
	if s.Answered() == 0 {
		return 1
	}
	return float64(s.OK) / float64(s.Answered())
}

// ErrConfig is returned by New for a Config outside of its bounds.
var ErrConfig = errors.New("load cannot run")

// New checks the config and returns a generator that has sent nothing yet.
func New(c Config) (*Generator, error) {
	switch {
	case !(c.Rate > 0 && c.Rate <= RateMax): // also refuses NaN
		return nil, fmt.Errorf("%w: rate is %v, allowed are above 0 to %d requests per second", ErrConfig, c.Rate, RateMax)
	case c.InFlight < 1 || c.InFlight > InFlightMax:
		return nil, fmt.Errorf("%w: requests in flight are %d, allowed are 1 to %d", ErrConfig, c.InFlight, InFlightMax)
	case c.Timeout <= 0:
		return nil, fmt.Errorf("%w: timeout is %v, it must be above 0", ErrConfig, c.Timeout)
	case c.Send == nil:
		return nil, fmt.Errorf("%w: nothing to send", ErrConfig)
	}
	return &Generator{config: c, stats: Stats{Versions: map[string]uint64{}}}, nil
}

// Run sends until ctx ends, cancels what is unanswered then, without counting it, and returns when every sender has ended.
func (g *Generator) Run(ctx context.Context) error {
	var senders sync.WaitGroup
	defer senders.Wait()
	slots := make(chan struct{}, g.config.InFlight)
	start := time.Now()
	g.mu.Lock()
	g.stats.Started = start
	g.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := uint64(0); ; n++ {
		due := start.Add(time.Duration(float64(n) / g.config.Rate * float64(time.Second)))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			g.mu.Lock()
			g.stats.Dropped++
			g.mu.Unlock()
			continue
		}
		senders.Go(func() {
			defer func() { <-slots }()
			g.send(ctx, n, due)
		})
	}
}

// send sends one request and counts what came of it.
func (g *Generator) send(ctx context.Context, n uint64, due time.Time) {
	one, cancel := context.WithTimeout(ctx, g.config.Timeout)
	defer cancel()
	g.mu.Lock()
	g.stats.Sent++
	g.mu.Unlock()
	r := g.config.Send(one, n)
	took := time.Since(due)
	if r.Err != nil && ctx.Err() != nil {
		return // we ended it, it tells nothing about the server
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times.add(took)
	switch {
	case r.Err != nil || r.Status == 0:
		g.stats.Failed++
		if r.Err != nil {
			g.stats.LastError = r.Err.Error()
		}
	case r.Status >= 500:
		g.stats.ServerErrors++
	case r.Status >= 400:
		g.stats.ClientErrors++
	default:
		g.stats.OK++
	}
	if v := r.Version; v != "" {
		if _, known := g.stats.Versions[v]; !known && len(g.stats.Versions) >= versionsMax {
			v = "other"
		}
		g.stats.Versions[v]++
	}
}

// Stats returns the counts so far.
func (g *Generator) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.stats
	s.Versions = make(map[string]uint64, len(g.stats.Versions))
	for v, n := range g.stats.Versions {
		s.Versions[v] = n
	}
	s.P50, s.P95, s.P99, s.Max = g.times.quantile(0.50), g.times.quantile(0.95), g.times.quantile(0.99), g.times.max
	return s
}
