package admin

import (
	"net/http"
	"runtime"
	"strconv"
)

// memory answers what Envoy does to "/memory" (envoy.admin.v3.Memory), as far as
// Go's runtime has the figure: it keeps no thread caches of which it knows.
//
// Every other page reads the runtime's counters as they are, and each processor
// counts its objects only when a span of them is full. This page stops the
// program for some ten microseconds and has all counted, so that the counters
// that are read after it are exact.
func (h *handler) memory(w http.ResponseWriter, _ *http.Request) error {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	number := func(n uint64) string { return strconv.FormatUint(n, 10) } // as protobuf's JSON has it
	return writeJSON(w, map[string]string{
		"allocated":            number(m.HeapAlloc),
		"heap_size":            number(m.HeapSys),
		"pageheap_unmapped":    number(m.HeapReleased),
		"pageheap_free":        number(m.HeapIdle - m.HeapReleased),
		"total_physical_bytes": number(m.Sys - m.HeapReleased),
	})
}
