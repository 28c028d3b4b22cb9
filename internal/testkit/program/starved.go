package program

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// netstat is where Linux counts what its TCP has dropped for want of memory (net.ipv4.tcp_mem), for all of a machine's sockets together.
const netstat = "/proc/net/netstat"

// shortages reads the counters of segments and connections that the kernel has given up because it had no memory for them: they look like a
// program that stands still or resets, whatever program it is. None where the kernel doesn't count.
func shortages() map[string]uint64 {
	data, err := os.ReadFile(netstat)
	if err != nil {
		return nil
	}
	out := map[string]uint64{}
	var names []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for _, name := range []string{"TCPAbortOnMemory", "TCPRcvQDrop", "RcvPruned"} {
			if i := slices.Index(names, name); i >= 0 && i < len(fields) {
				out[name], _ = strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return out
}

// starved says what the kernel has dropped for want of memory between two readings; empty when nothing.
func starved(before, after map[string]uint64) string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if n := after[name] - before[name]; n > 0 {
			said = append(said, fmt.Sprintf("%s %d", name, n))
		}
	}
	if said == nil {
		return ""
	}
	return "while the tests ran the kernel was short of memory for TCP, which looks like a proxy that stands still: " + strings.Join(said, ", ")
}
