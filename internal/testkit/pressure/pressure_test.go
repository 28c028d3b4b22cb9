package pressure

import (
	"runtime"
	"strings"
	"testing"
)

func TestCountersAreReadByTheirNames(t *testing.T) {
	got := Counters{}
	parse(got, "TcpExt: SyncookiesSent ListenDrops\nTcpExt: 3 14\nIpExt: InOctets\nIpExt: 9\n")
	for name, want := range map[string]int64{"TcpExtSyncookiesSent": 3, "TcpExtListenDrops": 14, "IpExtInOctets": 9} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
}

func TestTheKernelsCountersAreKnown(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("counters of TCP are Linux's")
	}
	now := Read()
	for _, name := range told {
		if _, ok := now[name]; !ok {
			t.Logf("this kernel does not count %s", name)
		}
	}
	if _, ok := now["TcpExtTCPMemoryPressures"]; !ok {
		t.Errorf("read %d counters, none of memory", len(now))
	}
	before := Counters{}
	for name := range now {
		before[name] = now[name]
	}
	before["TcpExtListenDrops"] -= 5
	if text := Since(before); !strings.Contains(text, "TcpExtListenDrops +") || !strings.Contains(text, "tcp_mem") || !strings.Contains(text, "sockstat TCP:") {
		t.Errorf("told %q", text)
	}
}
