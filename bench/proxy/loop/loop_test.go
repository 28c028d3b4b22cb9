package loop

import (
	"bufio"
	"net"
	"net/http"
	"testing"
	"time"
)

// backend listens until the test ends.
func backend(t *testing.T) *Loop {
	t.Helper()
	l, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// The loop as client speaks to itself as backend, so that both are held to one
// another.
func TestLoopAnswersItself(t *testing.T) {
	for name, load := range map[string]Load{
		"http/1.1 saturated":             {Connections: 4, Body: 1024},
		"http/1.1 at a rate":             {Connections: 4, Body: 1024, Rate: 2000},
		"http/1.1 with big bodies":       {Connections: 4, Body: 64 << 10, Upload: 64 << 10},
		"http/1.1 to two names":          {Connections: 4, Body: 10, Hosts: []string{"a", "b"}},
		"http/2 saturated":               {Protocol: HTTP2, Connections: 2, Streams: 8, Upload: 64, Body: 64},
		"http/2 at a rate":               {Protocol: HTTP2, Connections: 2, Streams: 8, Upload: 64, Body: 64, Rate: 2000},
		"http/2 with many messages":      {Protocol: HTTP2, Connections: 2, Streams: 8, Upload: 64, Body: 1024, Messages: 100},
		"http/2 past the default window": {Protocol: HTTP2, Connections: 1, Streams: 4, Upload: 1000, Body: 1000},
		"short connections":              {Protocol: Short, Connections: 4},
	} {
		t.Run(name, func(t *testing.T) {
			at := backend(t)
			load.Target, load.For = at.Backends()[0], 100*time.Millisecond
			began, ended := 0, 0
			load.Begin, load.End = func() { began++ }, func() { ended++ }
			got, err := at.Run(load)
			if err != nil {
				t.Fatal(err)
			}
			if got.Done < 10 || got.Failed != 0 || began != 1 || ended != 1 {
				t.Errorf("%+v, %d and %d calls", got, began, ended)
			}
			if load.Rate > 0 && got.Done != int(load.Rate*load.For.Seconds()) {
				t.Errorf("%d requests, want every one of the schedule", got.Done)
			}
			if want := int64(got.Done * max(load.Messages, 1) * (load.Body + 5)); load.Protocol == HTTP2 && (got.Bytes < want || got.Bytes > want+want/2) {
				t.Errorf("%d bytes, want about %d", got.Bytes, want)
			}
			if got.P50 > got.P99 || got.P99 > got.P999 || got.P999 > got.Max || got.Max <= 0 {
				t.Errorf("percentiles %v %v %v %v", got.P50, got.P99, got.P999, got.Max)
			}
		})
	}
}

func TestBulkIsCountedInBytes(t *testing.T) {
	at := backend(t)
	got, err := at.Run(Load{Protocol: Bulk, Target: at.Backends()[0], Connections: 2, For: 100 * time.Millisecond})
	if err != nil || got.Bytes < 1<<20 {
		t.Errorf("%d bytes, %v", got.Bytes, err)
	}
}

func TestHoldEndsWhenAllStreamsWait(t *testing.T) {
	at := backend(t)
	waiting := 0
	load := Load{Protocol: HTTP2, Target: at.Backends()[0], Connections: 3, Streams: 7, Hold: true, For: time.Second}
	load.End = func() { waiting++ }
	got, err := at.Run(load)
	if err != nil || waiting != 1 || got.Done != 0 {
		t.Errorf("%+v, %d, %v", got, waiting, err)
	}
}

// A request that has to wait for its connection waited since its intended time.
func TestLatencyCountsFromTheIntendedTime(t *testing.T) {
	const stall = 50 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for i := 0; ; i++ {
			if _, err := http.ReadRequest(reader); err != nil {
				return
			}
			if i == 1 { // the first after the warm-up
				<-time.After(stall)
			}
			if _, err := conn.Write(h1answer(1)); err != nil {
				return
			}
		}
	}()
	got, err := backend(t).Run(Load{Target: listener.Addr().(*net.TCPAddr).AddrPort(), Connections: 1, Rate: 1000, For: stall})
	if err != nil {
		t.Fatal(err)
	}
	// Fifty requests were due during the stall: on average they waited half of it.
	if got.Done != 50 || got.P50 < stall/4 {
		t.Errorf("median %v of %d requests, want about %v", got.P50, got.Done, stall/2)
	}
}

// The second load finds the backend's connections of the first; a client that
// went away with requests in flight leaves nothing behind.
func TestLoadsFollowOneAnother(t *testing.T) {
	at := backend(t)
	for _, streams := range []int{4, 8} {
		for _, hold := range []bool{true, false} {
			got, err := at.Run(Load{Protocol: HTTP2, Target: at.Backends()[0], Connections: 2, Streams: streams, Body: 10 * streams, Hold: hold, For: 20 * time.Millisecond})
			if err != nil || !hold && got.Done < 10 {
				t.Fatalf("%d streams, hold %v: %+v, %v", streams, hold, got, err)
			}
		}
	}
}
