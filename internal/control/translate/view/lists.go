package view

import (
	"hash/maphash"
	"slices"
	"sync"
)

// internedMax bounds the lists that are found again.
const internedMax = 4096

// interner makes equal lists one, so that they are held once and compared by
// address.
type interner struct {
	seed maphash.Seed

	mu sync.Mutex
	// Guarded by mu. What was not found again since the generation before is
	// in prev, and goes with the next one.
	now, prev map[uint64][]string
}

// newInterner keeps the newest lists of an earlier one, which may be nil.
func newInterner(earlier *interner) *interner {
	x := &interner{seed: maphash.MakeSeed(), now: make(map[uint64][]string)}
	if earlier != nil {
		earlier.mu.Lock()
		defer earlier.mu.Unlock()
		x.seed, x.prev = earlier.seed, earlier.now
	}
	return x
}

func (x *interner) intern(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	var h maphash.Hash
	h.SetSeed(x.seed)
	for _, s := range list {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	key := h.Sum64()
	x.mu.Lock()
	defer x.mu.Unlock()
	have, ok := x.now[key]
	if !ok {
		have, ok = x.prev[key]
	}
	if !ok || !slices.Equal(have, list) {
		have = slices.Clip(list)
	}
	if len(x.now) >= internedMax {
		clear(x.now)
	}
	x.now[key] = have
	return have
}
