//go:build conformance

package http2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The frames' kinds and flags (RFC 9113 §6), for frames that no library writes.
const (
	kindData         = 0
	kindHeaders      = 1
	kindPriority     = 2
	kindReset        = 3
	kindSettings     = 4
	kindPush         = 5
	kindPing         = 6
	kindGoAway       = 7
	kindWindow       = 8
	kindContinuation = 9

	endStream  = 1
	ack        = 1
	endHeaders = 4
	padded     = 8
)

// wireTime bounds a whole conversation of a test's peer.
const wireTime = 20 * time.Second

// wire is a connection on which a test speaks HTTP/2 frame by frame. One
// goroutine reads, one writes.
type wire struct {
	net.Conn

	read *http2.Framer // headers are decoded
	buf  bytes.Buffer
	enc  *hpack.Encoder

	mu     sync.Mutex // of err
	broken error      // of writing
}

func newWire(c net.Conn) *wire {
	_ = c.SetDeadline(time.Now().Add(wireTime)) // a connection that is closed already says so later
	w := &wire{Conn: c, read: http2.NewFramer(io.Discard, c)}
	w.read.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.enc = hpack.NewEncoder(&w.buf)
	return w
}

// raw writes bytes. A peer that has closed is what some tests want: the first
// error is kept.
func (w *wire) raw(b []byte) {
	if _, err := w.Write(b); err != nil {
		w.mu.Lock()
		if w.broken == nil {
			w.broken = err
		}
		w.mu.Unlock()
	}
}

// failed is the first error of writing.
func (w *wire) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

// frame writes one frame as it is told to.
func (w *wire) frame(kind, flags byte, stream uint32, payload []byte) {
	w.raw(frame(kind, flags, stream, payload))
}

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	out := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(out, stream), payload...)
}

// block compresses fields, given as name, value, name, value.
func (w *wire) block(fields ...string) []byte {
	w.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = w.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // into memory
	}
	return bytes.Clone(w.buf.Bytes())
}

// headers writes a head, in one frame if that takes it.
func (w *wire) headers(stream uint32, flags byte, fields ...string) {
	const most = 16384
	b, kind := w.block(fields...), byte(kindHeaders)
	for len(b) > most {
		w.frame(kind, flags, stream, b[:most])
		b, kind, flags = b[most:], kindContinuation, 0
	}
	w.frame(kind, flags|endHeaders, stream, b)
}

func (w *wire) data(stream uint32, flags byte, body string) {
	w.frame(kindData, flags, stream, []byte(body))
}

func (w *wire) reset(stream uint32, code http2.ErrCode) {
	w.frame(kindReset, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func (w *wire) goAway(last uint32, code http2.ErrCode) {
	w.frame(kindGoAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), uint32(code)))
}

func (w *wire) window(stream, by uint32) {
	w.frame(kindWindow, 0, stream, binary.BigEndian.AppendUint32(nil, by))
}

// settings writes SETTINGS, given as id, value, id, value.
func (w *wire) settings(pairs ...uint32) {
	var p []byte
	for i := 0; i < len(pairs); i += 2 {
		p = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(p, uint16(pairs[i])), pairs[i+1])
	}
	w.frame(kindSettings, 0, 0, p)
}

// next reads a frame. It acknowledges SETTINGS and PING by itself, so that a
// test sees only what it is about; a MetaHeadersFrame is a head.
func (w *wire) next() (http2.Frame, error) {
	for {
		f, err := w.read.ReadFrame()
		var one http2.StreamError
		if err != nil && !errors.As(err, &one) {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				w.frame(kindSettings, ack, 0, nil)
			}
			continue
		case *http2.PingFrame:
			if !f.IsAck() {
				w.frame(kindPing, ack, 0, f.Data[:])
			}
			continue
		case *http2.WindowUpdateFrame, nil:
			continue
		}
		return f, nil
	}
}

// get begins a request without a body.
func (w *wire) get(stream uint32, path string, more ...string) {
	w.headers(stream, endStream, append([]string{":method", "GET", ":scheme", "http", ":path", path, ":authority", "shop"}, more...)...)
}

// post begins a request with a body.
func (w *wire) post(stream uint32, path string, more ...string) {
	w.headers(stream, 0, append([]string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "shop"}, more...)...)
}

// ending is how a connection ended.
type ending struct {
	goAway http2.ErrCode
	said   bool // GOAWAY with an error came
	err    error
}

func (e ending) String() string {
	if e.said {
		return "GOAWAY " + e.goAway.String()
	}
	return "closed"
}

// serveWire is a server's accept loop for tests: handle runs for each connection,
// with its number from 0, and the connection is closed when it returns.
func serveWire(t testing.TB, handle func(n int, w *wire)) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				handle(n, newWire(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// dial opens a connection to the proxy and sends the preface and SETTINGS.
func dial(t testing.TB, at string, settings ...uint32) *wire {
	t.Helper()
	c, err := (&net.Dialer{Timeout: wireTime}).DialContext(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(c)
	w.raw([]byte(http2.ClientPreface))
	w.settings(settings...)
	return w
}
