package conn

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

func TestReadFirstTakesABufferOnlyWithBytes(t *testing.T) {
	a, b := pair(t)
	var pool Buffers
	if _, err := a.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	got, n, err := b.ReadFirst(&pool)
	if err != nil || string(got.B[:n]) != "first" {
		t.Fatalf("%q, %v", got.B[:n], err)
	}
	b.Unread([]byte("again"))
	if got, n, err = b.ReadFirst(&pool); err != nil || string(got.B[:n]) != "again" {
		t.Fatalf("%q, %v: put back bytes come first", got.B[:n], err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, n, err = b.ReadFirst(&pool); got != nil || n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, %d, %v", got, n, err)
	}
	if err := b.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got, n, err = b.ReadFirst(&pool); got != nil || n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v, %d, %v", got, n, err)
	}
}

// answering replies to one question with itself.
func answering(t *testing.T, s *Socket, question int) chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, question)
		_, err := io.ReadFull(s, buf)
		if err == nil {
			_, err = s.Write(buf)
		}
		done <- err
	}()
	return done
}

func TestRoundTripAsksAndReads(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 64)
	for _, question := range []string{"one", "another"} {
		done := answering(t, b, len(question))
		wrote, n, err := a.RoundTrip([]byte(question), buf)
		if wrote != len(question) || err != nil || string(buf[:n]) != question {
			t.Errorf("%d, %q, %v", wrote, buf[:n], err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestRoundTripWritesNothingOnAStaleConnection(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(a, b *Socket) error
	}{
		{"bytes nobody asked for", func(_, b *Socket) error { _, err := b.Write([]byte("HTTP/1.1 408")); return err }},
		{"the peer has ended", func(_, b *Socket) error { return b.CloseWrite() }},
		{"the peer has reset", func(_, b *Socket) error { return b.Abort() }},
		{"bytes put back", func(a, _ *Socket) error { a.Unread([]byte("x")); return nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			if err := tt.spoil(a, b); err != nil {
				t.Fatal(err)
			}
			if err := a.AwaitReadable(); err != nil && tt.name != "the peer has reset" {
				t.Fatal(err)
			}
			wrote, n, err := a.RoundTrip([]byte("question"), make([]byte, 64))
			if wrote != 0 || n != 0 || !errors.Is(err, ErrStale) {
				t.Errorf("%d, %d, %v, want ErrStale", wrote, n, err)
			}
		})
	}
}

func TestRoundTripSaysHowMuchOfALargeQuestionIsOut(t *testing.T) {
	a, b := pair(t)
	question := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than the kernel's buffers hold
	buf := make([]byte, 64)
	wrote, n, err := a.RoundTrip(question, buf)
	if wrote <= 0 || wrote >= len(question) || n != 0 || err != nil {
		t.Fatalf("%d of %d, %d, %v", wrote, len(question), n, err)
	}
	got := make(chan []byte, 1)
	go func() {
		all, err := io.ReadAll(b)
		if err != nil {
			t.Error(err)
		}
		got <- all
	}()
	if _, err := a.Write(question[wrote:]); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, question) {
		t.Error("other bytes arrived")
	}
}

func TestRoundTripEndsAtItsDeadline(t *testing.T) {
	a, b := pair(t)
	type result struct {
		wrote, n int
		err      error
	}
	done := make(chan result, 1)
	go func() {
		wrote, n, err := a.RoundTrip([]byte("question"), make([]byte, 8))
		done <- result{wrote, n, err}
	}()
	if _, err := io.ReadFull(b, make([]byte, len("question"))); err != nil {
		t.Fatal(err)
	}
	if err := a.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.wrote != len("question") || r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("%+v", r)
	}
}

func TestWideBuffersAreBounded(t *testing.T) {
	var p Buffers
	if b := p.GetFor(BufferBytes); len(b.B) != BufferBytes {
		t.Errorf("%d bytes for what fits into a small buffer", len(b.B))
	}
	var out []*Buffer
	for n := range limit.WideBuffersMax + 1 {
		b := p.GetFor(BufferBytes + 1)
		if want := n < limit.WideBuffersMax; (len(b.B) == WideBytes) != want {
			t.Fatalf("buffer %d has %d bytes", n+1, len(b.B))
		}
		out = append(out, b)
	}
	for _, b := range out {
		p.Put(b)
	}
	if b := p.GetFor(1 << 30); len(b.B) != WideBytes {
		t.Errorf("%d bytes after all were given back", len(b.B))
	}
	grown := &Buffer{B: make([]byte, 3*BufferBytes)}
	p.Put(grown)
	if b := p.Get(); b == grown || len(b.B) != BufferBytes {
		t.Errorf("a grown buffer came back with %d bytes", len(b.B))
	}
}
