package conn

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAPeerThatSendsTooMuchReadsOurLastBytes: a close that leaves bytes unread is
// a reset, which takes from the peer what its kernel does not have yet.
func TestAPeerThatSendsTooMuchReadsOurLastBytes(t *testing.T) {
	w, peer := pair(t)
	_ = peer.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	last := bytes.Repeat([]byte("last"), 15<<10)
	if _, err := w.Write(last); err != nil {
		t.Fatal(err)
	}
	const most = 1 << 10
	if _, err := peer.Write(make([]byte, 8*most)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Linger(w, make([]byte, most), most, 20*time.Second)
		_ = w.Close()
	}()
	// It waits for us, and so reads at our pace.
	_ = peer.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, len(last))
	if n, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, last) {
		t.Errorf("%d of %d bytes, %v", n, len(last), err)
	}
	<-ended
}

// TestLingeringHasAnEnd: neither a peer that is silent nor one that reads nothing
// of ours holds the connection.
func TestLingeringHasAnEnd(t *testing.T) {
	for _, sends := range []int{0, 4 << 10} {
		w, peer := pair(t)
		_ = peer.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		if _, err := w.Write(make([]byte, 60<<10)); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(make([]byte, sends)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		Linger(w, make([]byte, 1<<10), 1<<10, 50*time.Millisecond)
		if took := time.Since(began); took < 50*time.Millisecond || took > 10*time.Second {
			t.Errorf("a peer that sent %d bytes: lingered for %v", sends, took)
		}
	}
}
