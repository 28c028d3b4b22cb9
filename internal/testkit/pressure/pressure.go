// Package pressure tells what the kernel says of its TCP memory and of what it dropped, so that a test that did not end in time shows whether the
// kernel was the reason. It reads /proc and owns no state; Read is what to read first. Where there is no /proc it tells that.
package pressure

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Counters are the kernel's counters at one moment.
type Counters map[string]int64

// told are the counters of /proc/net/netstat that say that memory or a queue was short: the names are nstat's.
var told = [...]string{
	"TcpExtTCPMemoryPressures", "TcpExtTCPMemoryPressuresChrono", "TcpExtTCPAbortOnMemory", "TcpExtPruneCalled", "TcpExtRcvPruned", "TcpExtTCPRcvCollapsed",
	"TcpExtTCPRcvQDrop", "TcpExtTCPZeroWindowDrop", "TcpExtTCPBacklogDrop", "TcpExtListenOverflows", "TcpExtListenDrops", "TcpExtTCPReqQFullDrop",
	"TcpExtTCPTimeouts", "TcpExtTCPWinProbe", "TcpExtTCPToZeroWindowAdv", "TcpExtTCPFromZeroWindowAdv", "TcpExtTCPWantZeroWindowAdv",
}

// Read gives the counters as they are now.
func Read() Counters {
	out := Counters{}
	text, err := os.ReadFile("/proc/net/netstat")
	if err != nil {
		return out
	}
	parse(out, string(text))
	return out
}

// parse takes pairs of lines: names, and behind the same first word their values.
func parse(into Counters, text string) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			if n, err := strconv.ParseInt(values[j], 10, 64); err == nil {
				into[strings.TrimSuffix(names[0], ":")+names[j]] = n
			}
		}
	}
}

// Since tells by how much the counters of shortage have grown since before, and how much memory TCP takes now of what it may.
func Since(before Counters) string {
	var out strings.Builder
	now := Read()
	for _, name := range told {
		if n := now[name] - before[name]; n != 0 {
			fmt.Fprintf(&out, "%s +%d, ", name, n)
		}
	}
	for _, file := range []string{"/proc/net/sockstat", "/proc/sys/net/ipv4/tcp_mem"} {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintf(&out, "%v; ", err)
			continue
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "TCP:") || strings.HasSuffix(file, "tcp_mem") {
				fmt.Fprintf(&out, "%s %s; ", file[strings.LastIndexByte(file, '/')+1:], line)
			}
		}
	}
	return strings.TrimSuffix(out.String(), "; ")
}
