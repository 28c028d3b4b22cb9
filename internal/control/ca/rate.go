package ca

import (
	"sync"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/limit"
)

// Rates bound certificate requests by token buckets: a rate per second and the
// burst that may come at once. A burst has to cover the replicas of one
// workload that start together, as they share an identity.
type Rates struct {
	PerSecond         float64 // of all callers; zero means 1000
	Burst             float64 // zero means 5000
	IdentityPerSecond float64 // of one identity; zero means 20
	IdentityBurst     float64 // zero means 1000
}

// rates applies Rates.
type rates struct {
	limits Rates
	now    func() time.Time

	mu         sync.Mutex
	all        bucket
	identities map[identity.ID]*bucket
}

func newRates(r Rates, now func() time.Time) *rates {
	for _, field := range []struct {
		value *float64
		usual float64
	}{{&r.PerSecond, 1000}, {&r.Burst, 5000}, {&r.IdentityPerSecond, 20}, {&r.IdentityBurst, 1000}} {
		if *field.value <= 0 {
			*field.value = field.usual
		}
	}
	return &rates{
		limits: r, now: now,
		all:        bucket{level: r.Burst, at: now()},
		identities: make(map[identity.ID]*bucket),
	}
}

// allowAny takes one request from the budget of all callers.
func (r *rates) allowAny() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.take(r.now(), r.limits.PerSecond, r.limits.Burst)
}

// allow takes one request from the budget of an identity.
func (r *rates) allow(id identity.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	b := r.identities[id]
	if b == nil {
		if len(r.identities) >= limit.CertificateCallersMax && !r.forgetLocked(now) {
			return false
		}
		b = &bucket{level: r.limits.IdentityBurst, at: now}
		r.identities[id] = b
	}
	return b.take(now, r.limits.IdentityPerSecond, r.limits.IdentityBurst)
}

// forgetLocked drops the identities whose buckets are full again, which is as
// if they had never come. It reports whether there were any.
func (r *rates) forgetLocked(now time.Time) bool {
	before := len(r.identities)
	for id, b := range r.identities {
		if b.fill(now, r.limits.IdentityPerSecond, r.limits.IdentityBurst); b.level >= r.limits.IdentityBurst {
			delete(r.identities, id)
		}
	}
	return len(r.identities) < before
}

type bucket struct {
	level float64
	at    time.Time
}

func (b *bucket) fill(now time.Time, perSecond, burst float64) {
	// A clock that steps back fills nothing.
	if passed := now.Sub(b.at); passed > 0 {
		b.level = min(burst, b.level+passed.Seconds()*perSecond)
	}
	b.at = now
}

func (b *bucket) take(now time.Time, perSecond, burst float64) bool {
	b.fill(now, perSecond, burst)
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}
