package http1_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
)

// readHead reads a request's head as raw lines.
func readHead(r *bufio.Reader) (head string, err error) {
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			return head, err
		}
		head += line
	}
	return head, nil
}

// A server that has seen enough answers before the end of the upload: the
// client gets that answer, whatever the server does with its connection.
func TestEarlyAnswersReachClientsThatStillUpload(t *testing.T) {
	t.Parallel()
	endings := map[string]func(c *net.TCPConn, r io.Reader){
		"closes with bytes unread, which resets": func(c *net.TCPConn, _ io.Reader) { c.Close() },
		"ends its direction and reads on": func(c *net.TCPConn, r io.Reader) {
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, r)
		},
		"ends its direction and reads nothing": func(c *net.TCPConn, _ io.Reader) {
			_ = c.CloseWrite()
			_, _ = c.Read(nil)
		},
		"keeps the connection and reads on": func(_ *net.TCPConn, r io.Reader) { _, _ = io.Copy(io.Discard, r) },
	}
	for ending, end := range endings {
		for name, head := range map[string]string{"a length": postA + "Content-Length: 8388608\r\n\r\n", "chunks": postA + chunked + "\r\n"} {
			t.Run(name+", the server "+ending, func(t *testing.T) {
				t.Parallel()
				s := serve(t, func(c *net.TCPConn) {
					r := bufio.NewReader(c)
					if _, err := readHead(r); err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
					end(c, r)
				})
				conn := dial(t, startProxy(t, asIstio(), s.at).at)
				go func() { // until the proxy has had enough
					piece := strings.Repeat("x", 4096)
					if strings.Contains(head, "chunked") {
						piece = "1000\r\n" + piece + "\r\n"
					}
					_, err := io.WriteString(conn, head)
					for sent := 0; sent < limit.LingerBytesMax/2 && err == nil; sent += len(piece) {
						_, err = io.WriteString(conn, piece)
					}
				}()
				r := reader{bufio.NewReader(conn)}
				a, err := r.response("POST")
				if err != nil || a.status != 413 || a.body != "big" || a.field("connection") != "close" {
					t.Errorf("%s, %v", a, err)
				}
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection does not end: %v", err)
				}
			})
		}
	}
}

// The server decides about an expectation: its 100 lets the client send, its
// final answer comes in place of it (RFC 9110 §10.1.1).
func TestServersAnswerExpectations(t *testing.T) {
	t.Parallel()
	head := postA + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	t.Run("100, then the body", func(t *testing.T) {
		t.Parallel()
		s := serve(t, func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			if got, err := readHead(r); err != nil || !strings.Contains(got, "expect: 100-continue\r\n") {
				t.Errorf("%q, %v", got, err)
			}
			if n := r.Buffered(); n > 0 {
				t.Errorf("%d bytes came before 100", n)
			}
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body := make([]byte, 5)
			_, _ = io.ReadFull(r, body)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", body)
			_, _ = r.ReadByte()
		})
		conn := dial(t, startProxy(t, asIstio(), s.at).at)
		r := reader{bufio.NewReader(conn)}
		_, _ = io.WriteString(conn, head)
		if a, err := r.response("POST"); err != nil || a.status != 100 {
			t.Fatalf("%s, %v", a, err)
		}
		_, _ = io.WriteString(conn, "hello")
		if a, err := r.response("POST"); err != nil || a.String() != `200 "hello"` {
			t.Errorf("%s, %v", a, err)
		}
	})
	for _, status := range []int{401, 413, 417} {
		t.Run(fmt.Sprint(status, " in place of 100"), func(t *testing.T) {
			t.Parallel()
			after := make(chan error, 1)
			s := serve(t, func(c *net.TCPConn) {
				r := bufio.NewReader(c)
				_, _ = readHead(r)
				_, _ = fmt.Fprintf(c, "HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n", status)
				_, err := r.ReadByte()
				after <- err
			})
			conn := dial(t, startProxy(t, asIstio(), s.at).at)
			r := reader{bufio.NewReader(conn)}
			_, _ = io.WriteString(conn, head)
			a, err := r.response("POST")
			if err != nil || a.status != status || a.field("connection") != "close" {
				t.Errorf("%s, %v", a, err)
			}
			// A body that comes all the same is no request of anybody.
			_, _ = io.WriteString(conn, "hello"+marker)
			if a, err := r.response("GET"); !errors.Is(err, io.EOF) {
				t.Errorf("more is answered: %s, %v", a, err)
			}
			conn.Close()
			if err := <-after; err == nil {
				t.Error("bytes reached the server behind its answer")
			}
		})
	}
}

// Clients of HTTP/1.0 know no chunks and no 1xx.
func TestOldClientsGetWhatTheyUnderstand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ raw, fields, want string }{
		"chunks become the end of the connection": {ok + chunked + "\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n", "Connection: keep-alive\r\n", `200 "abc"`},
		"a length keeps the connection":           {ok + abc, "Connection: keep-alive\r\n", `200 (connection: keep-alive) "abc"`},
		"a length without keep-alive":             {ok + abc, "", `200 "abc"`},
		"early hints are left out":                {"HTTP/1.1 103 Early Hints\r\n\r\n" + ok + abc, "", `200 "abc"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(conn *net.TCPConn) {
				r := bufio.NewReader(conn)
				for {
					if _, err := readHead(r); err != nil {
						return
					}
					_, _ = io.WriteString(conn, c.raw)
				}
			})
			m := asIstio()
			m.AcceptHTTP10 = true
			conn := dial(t, startProxy(t, m, s.at).at)
			request := "GET / HTTP/1.0\r\nHost: a\r\n" + c.fields + "\r\n"
			_, _ = io.WriteString(conn, request)
			r := reader{bufio.NewReader(conn)}
			a, err := r.response("GET")
			if err != nil || a.String() != c.want {
				t.Fatalf("%s, %v; want %s", a, err, c.want)
			}
			keeps := a.field("connection") == "keep-alive"
			if keeps {
				_, _ = io.WriteString(conn, request)
			}
			if b, err := r.response("GET"); keeps != (err == nil) || keeps && b.String() != c.want {
				t.Errorf("next: %s, %v", b, err)
			}
		})
	}
}

// A client that leaves in the middle of its upload takes the server's work with
// it, and no message of it looks complete.
func TestUploadsThatBreakOffDoNotLookComplete(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{"a length": postA + "Content-Length: 10\r\n\r\nhello", "chunks": postA + chunked + "\r\n5\r\nhello\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			came, whole := make(chan struct{}), make(chan error, 1)
			s := serve(t, func(c *net.TCPConn) {
				r := reader{bufio.NewReader(c)}
				if _, err := r.Peek(1); err == nil {
					close(came)
				}
				_, err := r.request()
				whole <- err
			})
			conn := dial(t, startProxy(t, asIstio(), s.at).at)
			_, _ = io.WriteString(conn, raw)
			<-came
			conn.Close()
			select {
			case err := <-whole:
				if err == nil {
					t.Error("the server saw a complete message")
				}
			case <-time.After(patience):
				t.Error("the server still waits")
			}
		})
	}
}
