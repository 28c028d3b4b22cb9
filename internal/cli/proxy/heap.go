package proxy

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// The collector's floor. A proxy's live heap is 3 to 4 MB, so that by Go's
// default (GOGC=100, 4 MB at the least) each 4 MB of garbage, which is a hundred
// TLS handshakes, cost a whole collection: a seventh of a handshake's CPU. Below
// the floor no collection begins; above, Go's default rules. Plain requests make
// no garbage, so that a proxy without handshakes stays below for ever.
const (
	heapFloor = 16 << 20 // bytes, garbage included
	// percentDefault is Go's, percentMax has the first collection begin at the
	// floor: the runtime's least heap is 4 MB at 100 %, and grows with it.
	percentDefault = 100
	percentMax     = percentDefault * heapFloor / (4 << 20)
)

// percentFor is the GOGC at which a program with so many live bytes collects
// when its heap reaches the floor, and never less often than Go's default. It is
// a multiple of 50, as each change stops the program for some microseconds.
func percentFor(live uint64) int {
	percent := int(min((heapFloor/float64(max(live, 1))-1)*100, percentMax))
	return max(percent/50*50, percentDefault)
}

// holdFloor keeps the collector away from small heaps until ctx ends or release
// is called, which waits for all that was begun. Who has set GOGC has decided
// otherwise, and a memory limit (GOMEMLIMIT) holds anyway.
func holdFloor(ctx context.Context) (release func()) {
	if was := debug.SetGCPercent(percentMax); was != percentDefault {
		debug.SetGCPercent(was)
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { follow(ctx) })
	return func() {
		stop()
		wait.Wait()
		debug.SetGCPercent(percentDefault)
	}
}

// follow sets the percentage anew when a collection has measured the live heap.
// It sleeps until then: a proxy that makes no garbage is never woken by it.
func follow(ctx context.Context) {
	percent := percentMax
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-nextCollection():
		}
		metrics.Read(live)
		if next := percentFor(live[0].Value.Uint64()); next != percent {
			percent = next
			debug.SetGCPercent(percent)
		}
	}
}

// nextCollection is closed when a collection has swept what is garbage from the
// start, which is before the next one begins.
func nextCollection() <-chan struct{} {
	swept := make(chan struct{})
	garbage := new(*byte) // a pointer: what has none may share its place with what lives
	runtime.AddCleanup(garbage, func(c chan struct{}) { close(c) }, swept)
	return swept
}
