package http2

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// turns serves a client who leaves after so many of its requests began. It returns how many each turn handed out, and how many of all had
// failed before.
func turns(t *testing.T, leaves int, sends []byte) (began []int, failed int) {
	t.Helper()
	a, b := pair(t)
	c := NewConn(a, conn.NewClock(), Options{}, Timeouts{}, nil)
	at := int64(0)
	_ = c.Serve(sends, func(turn *Turn, st *Stream) { // the client left
		if turn.Now != at {
			at, began = turn.Now, append(began, 0)
		}
		began[len(began)-1]++
		if st.Err() != nil {
			failed++
		}
		st.Release(turn)
		if leaves--; leaves == 0 {
			if err := b.CloseWrite(); err != nil {
				t.Error(err)
			}
		}
	})
	return began, failed
}

// TestRequestsOfAReadBeginSoManyATurn: others are served between the turns.
func TestRequestsOfAReadBeginSoManyATurn(t *testing.T) {
	const most = limit.RequestsPerTurn
	for _, c := range []struct {
		n    int
		want []int
	}{
		{1, []int{1}},
		{most - 1, []int{most - 1}},
		{most, []int{most}},
		{most + 1, []int{most, 1}},
		{2*most + 1, []int{most, most, 1}},
	} {
		w := fromClient()
		for i := range c.n {
			w.get(uint32(2*i + 1))
		}
		if got, failed := turns(t, c.n, w.b); !slices.Equal(got, c.want) || failed > 0 {
			t.Errorf("%d requests: turns began %v, want %v; %d had failed", c.n, got, c.want, failed)
		}
	}
}

// TestPeersThatErrGiveWay: before anything more is read of them.
func TestPeersThatErrGiveWay(t *testing.T) {
	a, b := pair(t)
	w := fromClient().get(1, "X: y") // names are in lower case
	for len(w.b) < readBytes {
		w.frame(77, 0, 0, strings.Repeat("x", FrameBytesMax))
	}
	w.get(3)
	var at []int64
	_ = NewConn(a, conn.NewClock(), Options{}, Timeouts{}, nil).Serve(w.b, func(turn *Turn, st *Stream) { // the client left
		at = append(at, turn.Now)
		st.Release(turn)
		if len(at) == 2 {
			if err := b.CloseWrite(); err != nil {
				t.Error(err)
			}
		}
	})
	if gap := time.Duration(at[1] - at[0]); gap < conn.TurnPause {
		t.Errorf("the next read came %v after errors, want %v at least", gap, conn.TurnPause)
	}
}

// TestRequestsOfAFloodAreToldAndNotServed: what a client sends counts when it is read, not when its requests begin. Those that did not begin
// are handed out as failed, each once.
func TestRequestsOfAFloodAreToldAndNotServed(t *testing.T) {
	const turn, all = limit.RequestsPerTurn, limit.HTTP2StreamsMax
	for _, c := range []struct {
		name         string
		first, begin int // requests of the first read; how many begin
	}{
		{"in one read", 0, 0},
		{"behind requests of another read", turn - 1, turn - 1},
		{"behind requests that wait", turn + 1, turn},
	} {
		w, n := fromClient(), 0
		request := func() { w.post(uint32(2*n + 1)); n++ }
		for n < c.first {
			request()
		}
		for c.first > 0 && len(w.b) < readBytes {
			w.frame(77, 0, 0, strings.Repeat("x", FrameBytesMax))
		}
		for n < c.begin+all+limit.HTTP2ErrorBurst+1 { // those that began end, and make room
			request()
		}
		began, failed := turns(t, c.begin+all, w.b)
		sum := 0
		for _, n := range began {
			sum += n
		}
		if sum-failed != c.begin || failed != all {
			t.Errorf("%s: %d began, %d had failed; want %d and %d", c.name, sum-failed, failed, c.begin, all)
		}
	}
}
