package conn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// secured is a client's TLS connection and its server's; tickets have the server
// send one behind the handshake, which nobody has read yet.
func secured(t *testing.T, tickets bool) (*TLS, *tls.Conn) {
	t.Helper()
	with := httptest.NewUnstartedServer(nil)
	with.StartTLS()
	with.Close()
	a, b := pair(t)
	cfg := &tls.Config{InsecureSkipVerify: true}
	if tickets {
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	client, server := NewTLSClient(a, cfg), tls.Server(b, with.TLS)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// echo sends so many bytes back.
func echo(c io.ReadWriter, n int) chan error {
	done := make(chan error, 1)
	go func() {
		got := make([]byte, n)
		_, err := io.ReadFull(c, got)
		if err == nil {
			_, err = c.Write(got)
		}
		done <- err
	}()
	return done
}

func TestRoundTripOverTLSAsksAndReads(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tickets bool
		bytes   int
		times   int
	}{
		{"a record", false, 100, 3},
		{"a ticket came meanwhile", true, 100, 3},
		{"several records", false, 40 << 10, 3},
		{"more than the kernel's buffers hold", true, 16 << 20, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, server := secured(t, tt.tickets)
			for range tt.times {
				question := bytes.Repeat([]byte("question? "), tt.bytes/10)
				done, want := echo(server, len(question)), len(question)
				answer := make([]byte, want)
				wrote, n, err := client.RoundTrip(question, answer)
				if wrote != want || n == 0 || err != nil {
					t.Fatalf("%d of %d bytes, %d back, %v", wrote, want, n, err)
				}
				if _, err := io.ReadFull(client, answer[n:]); err != nil || !bytes.Equal(answer, question) {
					t.Fatalf("another answer, %v", err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if cap(client.records.question) > questionBytesMax {
					t.Errorf("%d bytes are kept", cap(client.records.question))
				}
			}
		})
	}
}

func TestRoundTripOverTLSWritesNothingOnAStaleConnection(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(client *TLS, server *tls.Conn) error
	}{
		{"bytes nobody asked for", func(_ *TLS, s *tls.Conn) error { _, err := s.Write([]byte("HTTP/1.1 408")); return err }},
		{"bytes that were waited for", func(c *TLS, s *tls.Conn) error {
			_, err := s.Write([]byte("HTTP/1.1 408"))
			return errors.Join(err, c.AwaitReadable())
		}},
		{"the peer has ended", func(_ *TLS, s *tls.Conn) error { return s.CloseWrite() }},
		{"the peer has closed", func(_ *TLS, s *tls.Conn) error { return s.Close() }},
		{"the peer has reset", func(_ *TLS, s *tls.Conn) error { return s.NetConn().(*Socket).Abort() }},
	} {
		for _, tickets := range []bool{false, true} {
			client, server := secured(t, tickets)
			if err := tt.spoil(client, server); err != nil {
				t.Fatal(err)
			}
			if !client.held {
				_ = client.Socket().AwaitReadable() // fails where the peer has reset
			}
			wrote, n, err := client.RoundTrip([]byte("question"), make([]byte, 64))
			if wrote != 0 || n != 0 || !errors.Is(err, ErrStale) {
				t.Errorf("%s, ticket %t: %d, %d, %v, want ErrStale", tt.name, tickets, wrote, n, err)
			}
			if len(client.records.question) != 0 {
				t.Errorf("%s: the question still waits", tt.name)
			}
		}
	}
}

func TestRoundTripOverTLSEndsAtItsDeadline(t *testing.T) {
	client, server := secured(t, false)
	type result struct {
		wrote, n int
		err      error
	}
	done := make(chan result, 1)
	ask := func() {
		wrote, n, err := client.RoundTrip([]byte("question"), make([]byte, 8))
		done <- result{wrote, n, err}
	}
	go ask()
	if _, err := io.ReadFull(server, make([]byte, len("question"))); err != nil {
		t.Fatal(err)
	}
	if err := client.Socket().SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.wrote != len("question") || r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("%+v", r)
	}
	ask() // past the deadline nothing is written
	if r := <-done; r.wrote != 0 || r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %+v", r)
	}
}
