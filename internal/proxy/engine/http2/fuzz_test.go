package http2

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// Whatever a peer sends, in whatever pieces: no panic, the same state, and
// nothing held beyond the limits.
func FuzzFrames(f *testing.F) {
	for _, c := range rulesOfFrames() {
		f.Add(c.in.b, uint8(7), false)
	}
	for _, c := range rulesOfResponses() {
		f.Add(c.in.b, uint8(5), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint8, client bool) {
		whole, parts := fuzzed(client), fuzzed(client)
		_, wholeErr := whole.Feed(b, 1)
		var held []byte
		var partsErr error
		for rest := b; len(rest) > 0 && partsErr == nil; {
			n := min(int(piece)+1, len(rest))
			held, rest = append(held, rest[:n]...), rest[n:]
			var used int
			used, partsErr = parts.Feed(held, 1)
			held = held[used:]
		}
		if (wholeErr == nil) != (partsErr == nil) {
			t.Fatalf("as a whole: %v; in pieces: %v", wholeErr, partsErr)
		}
		if a, b := said(t, whole.out), said(t, parts.out); a != b {
			t.Fatalf("as a whole: %s; in pieces: %s", a, b)
		}
		bounded(t, whole)
	})
}

func fuzzed(client bool) *Session {
	o := Options{StreamsMax: 8, HeadBytesMax: 2000, HeadFieldsMax: 20, StreamWindow: 4000}
	if !client {
		return begun(o)
	}
	o.Role = Client
	s := NewSession(o)
	s.sendRequest(s.open(), &Part{Head: &message.Head{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("a")}}, true)
	s.out = s.out[:0]
	return s
}

func bounded(t *testing.T, s *Session) {
	if len(s.streams) > 8 {
		t.Fatalf("%d streams", len(s.streams))
	}
	for id, st := range s.streams {
		if len(st.body) > 4000 || st.Head.Len() > 20 || len(st.more) > informationalMax {
			t.Fatalf("stream %d holds %d body bytes, %d fields, %d heads", id, len(st.body), st.Head.Len(), len(st.more))
		}
	}
	if len(s.block.buf) > 2000+blockBytesSlack {
		t.Fatalf("%d bytes of a block", len(s.block.buf))
	}
}

// What passes as a request is safe to write in HTTP/1.1.
func FuzzHeaderBlock(f *testing.F) {
	w := newWire()
	f.Add([]byte(w.block(get()...)), 3)
	f.Add([]byte(newWire().block(get("cookie: a=1", "cookie: b=2", "te: trailers", "x-a: b")...)), 9)
	f.Add([]byte(newWire().block(":method: GET", ":scheme: http", ":path: / x", "host: a")), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if len(b) > FrameBytesMax {
			return
		}
		cut = min(max(cut, 0), len(b))
		s := begun(Options{})
		in := fromClient().frame(kindHeaders, flagEndStream, 1, string(b[:cut])).frame(kindContinuation, flagEndHeaders, 1, string(b[cut:]))
		if _, err := s.Feed(in.b, 1); err != nil || len(s.opened) == 0 || s.opened[0].TooLarge {
			return
		}
		h := &s.opened[0].Head
		if len(h.Authority) == 0 || string(h.Method) != "CONNECT" && len(h.Path) == 0 {
			t.Fatalf("request without a target: %q %q", h.Authority, h.Path)
		}
		line := string(h.Method) + string(h.Path) + string(h.Authority)
		if strings.ContainsAny(line, " \r\n\t\x00") || !utf8.Valid(h.Method) {
			t.Fatalf("request line %q", line)
		}
		for _, fld := range h.Fields() {
			if strings.ContainsAny(string(fld.Name), " \r\n\t\x00:") || strings.ContainsAny(string(fld.Value), "\r\n\x00") {
				t.Fatalf("field %q: %q", fld.Name, fld.Value)
			}
			switch string(fld.Name) {
			case "connection", "transfer-encoding", "upgrade", "host", "te":
				t.Fatalf("field %q passed", fld.Name)
			}
		}
	})
}
