package draw

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Seen is what a stand-in tells of a request: who got it, and what of it rules
// may have changed.
type Seen struct {
	Who     string            `json:"who"`
	Method  string            `json:"method"`
	Host    string            `json:"host"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
}

// StandIns serve Names on loopback until the test ends; the result is their
// ports. Each answers HTTP requests with what it has Seen, and any other bytes
// with its name.
func StandIns(t testing.TB, names ...string) map[string]int {
	t.Helper()
	places := map[string]int{}
	for _, who := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		places[who] = l.Addr().(*net.TCPAddr).Port
		s := &standIn{who: who, listener: l, open: map[net.Conn]bool{}}
		s.running.Go(s.accept)
		t.Cleanup(s.close)
	}
	return places
}

type standIn struct {
	who      string
	listener net.Listener
	running  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool
}

func (s *standIn) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *standIn) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.open[c] = true
		s.mu.Unlock()
		s.running.Go(func() {
			s.serve(c)
			_ = c.Close()
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
		})
	}
}

func (s *standIn) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		first, err := r.Peek(4)
		if err != nil {
			return
		}
		if !strings.Contains("GET  POST PUT  ", string(first)) {
			_, _ = fmt.Fprintf(c, "bytes at %s\n", s.who)
			return
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		seen := Seen{Who: s.who, Method: req.Method, Host: req.Host, Path: req.RequestURI, Headers: map[string]string{}}
		for _, name := range []string{"End-User", "X-Flag", "X-Set", "X-Add", "X-Envoy-Original-Path", "X-Forwarded-Proto"} {
			if v, ok := req.Header[name]; ok {
				seen.Headers[name] = strings.Join(v, ",")
			}
		}
		body, err := json.Marshal(seen)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(body), body); err != nil {
			return
		}
	}
}
