package http2

import (
	"errors"
	"io"
	"testing"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// TestWritersOfABrokenConnectionEnd: between the failure of a write and the
// end of Serve nobody writes, and whoever tries is told.
func TestWritersOfABrokenConnectionEnd(t *testing.T) {
	a, b := pair(t)
	wrote := make(chan error, 1)
	handled := make(chan *Stream, 1)
	server, served := serving(t, b, Options{Role: Server}, Timeouts{}, func(st *Stream) { handled <- st })
	client, _ := serving(t, a, Options{Role: Client}, Timeouts{}, nil)
	st, err := client.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := st.WriteRequest(request(), false, false); err != nil {
		t.Fatal(err)
	}
	down := <-handled
	server.mu.Lock()
	server.broken = io.ErrClosedPipe
	server.session.out = append(server.session.out, 0)
	server.mu.Unlock()
	go func() {
		_, err := down.Write(make([]byte, 1<<20), true)
		wrote <- err
	}()
	if err := within(t, "the writer", wrote); !errors.Is(err, ErrClosed) {
		t.Errorf("the writer got %v", err)
	}
	st.Close()
	a.Close()
	b.Close()
	if err := within(t, "the connection", served); err == nil {
		t.Error("the connection ended in order")
	}
}

// TestEndOfAConnectionIsNotTheEndOfABody: a body that the peer's close cuts is
// not complete (RFC 9113 §8.1.1), and a complete one is not cut by it.
func TestEndOfAConnectionIsNotTheEndOfABody(t *testing.T) {
	for _, complete := range []bool{true, false} {
		a, b := pair(t)
		began, closed := make(chan struct{}), make(chan struct{})
		_, _ = serving(t, b, Options{Role: Server}, Timeouts{}, func(st *Stream) {
			_ = st.WriteResponse(&message.Head{Status: 200}, false)
			_, _ = st.Write([]byte("hello"), complete)
			select { // another goroutine may be the one that writes
			case <-began:
			case <-t.Context().Done():
			}
			_ = b.Close()
			close(closed)
		})
		client, _ := serving(t, a, Options{Role: Client}, Timeouts{}, nil)
		st, err := client.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := st.WriteRequest(request(), false, true); err != nil {
			t.Fatal(err)
		}
		var h message.Head
		if _, err := st.ReadHead(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(st, make([]byte, 1)); err != nil { // the frame is there
			t.Fatal(err)
		}
		close(began)
		<-closed
		rest, err := io.ReadAll(st)
		if complete && (err != nil || string(rest) != "ello") {
			t.Errorf("a complete body: %q, %v", rest, err)
		}
		if !complete && err == nil {
			t.Errorf("a body that was cut looks complete: %q", rest)
		}
		st.Close()
	}
}

// TestAStreamWhoseConnectionEndsBeforeItBeginsFails: also for the one that
// waits for its response, who else would wait for ever.
func TestAStreamWhoseConnectionEndsBeforeItBeginsFails(t *testing.T) {
	a, b := pair(t)
	_, _ = serving(t, b, Options{Role: Server}, Timeouts{}, func(*Stream) { t.Error("a stream began") })
	client, served := serving(t, a, Options{Role: Client}, Timeouts{}, nil)
	st, err := client.Open()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := within(t, "the connection", served); err == nil {
		t.Error("the connection ended in order")
	}
	turn := client.begin()
	defer client.end(turn)
	if _, err := st.Put(turn, &Part{Head: request(), End: true}); !errors.Is(err, ErrNotProcessed) {
		t.Errorf("sending: %v", err)
	}
	var h message.Head
	var body []byte
	if _, _, err := st.TakeHead(&h, &body); !errors.Is(err, ErrNotProcessed) {
		t.Errorf("waiting for the response: %v", err)
	}
	st.Release(turn)
}
