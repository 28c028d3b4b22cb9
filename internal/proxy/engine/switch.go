package engine

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 §4.2.2 says so; nothing is kept secret by it
	"encoding/base64"
	"errors"
	"io"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
	"github.com/tullemesh/tulle/internal/proxy/engine/failure"
	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

// A request that switches to another protocol has one form in an exchange,
// whatever carries it: HTTP/1.1's GET with Upgrade, and 101 as its answer. In
// HTTP/2 it is an extended CONNECT and 200 (RFC 8441).

// connectType is the upgrade type that stands for CONNECT itself (Envoy:
// upgrade_configs).
const connectType = "connect"

// switches reports whether clients may be told that extended CONNECT is taken.
func switches(m *listener.HTTPManager) bool {
	return slices.ContainsFunc(m.Upgrades, func(name string) bool { return name != connectType })
}

// upgradeAllowed reports whether the listener or the route allows the wanted
// upgrade (Envoy: upgrade_configs). CONNECT is not one that can be asked for by
// name.
func (x *exchange) upgradeAllowed() bool {
	wanted := string(x.upgrade)
	if wanted == connectType {
		return false
	}
	if slices.Contains(x.manager.Upgrades, wanted) {
		return true
	}
	r := x.result.Route
	return r != nil && r.Forward != nil && slices.Contains(r.Forward.Upgrades, wanted)
}

// asSwitched makes an extended CONNECT's answer what HTTP/1.1 says instead.
func asSwitched(h *message.Head, protocol []byte) {
	h.Status = 101
	h.SetString("connection", "upgrade")
	h.Set("upgrade", protocol)
}

// switchProtocols takes 101, if it is to what was asked for (RFC 9110 §7.8).
func (c *http1Call) switchProtocols() error {
	if len(c.upgrade) == 0 || string(c.frame.Upgrade) != string(c.upgrade) {
		return http1.ErrStatus
	}
	c.switched = true
	return nil
}

func (c *http1Call) readRaw(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	n, err := c.conn.Read(p)
	if n > 0 {
		err = nil // it comes again
	}
	return n, err
}

func (c *http1Call) sendRaw(p []byte, end bool) error {
	if len(p) > 0 {
		if _, err := c.conn.Write(p); err != nil {
			return err
		}
	}
	if end {
		return c.conn.CloseWrite()
	}
	return nil
}

// passBoth passes bytes both ways until both directions have ended.
func (x *http2Exchange) passBoth(c call) *failure.Failure {
	x.replayable, x.tooMany = false, true
	x.due[dueResponse].Store(0)
	x.side.Go(func() { x.pump(c) })
	if f := x.passBody(c); f != nil {
		return f
	}
	if x.side.Wait(); x.sentAll.Load() {
		return nil // whoever leaves now has heard and said all
	}
	return x.interrupted()
}

// switchOver2 answers 101 for an endpoint that took an extended CONNECT, and
// then passes bytes both ways until both directions have ended.
func (x *http1Exchange) switchOver2(c *http2Call) *failure.Failure {
	d := x.d
	d.stopSide()
	if f := x.interrupted(); f != nil {
		return f
	}
	acceptFor(&x.req, &x.res)
	x.toDownstream()
	x.announcedClose = true
	d.guard.Clear(slotRoute)
	d.responding.Store(true)
	x.headSent = true
	if f := x.toClient(http1.AppendResponse(x.back[:0], &x.res, false, http1.Keep)); f != nil {
		return f
	}
	interrupt := context.CancelFunc(func() {
		c.interrupt()
		_ = d.sock.SetReadDeadline(past())
	})
	d.cancel.Store(&interrupt)
	sent := make(chan struct{})
	d.startSide(func() {
		defer close(sent)
		x.pumpSwitched(c)
	})
	if f := x.streamSwitched(c); f != nil {
		return f
	}
	if <-sent; x.pumpDone.Load() {
		return nil // as in passBoth
	}
	return x.interrupted()
}

// pumpSwitched passes what the client sends.
func (x *http1Exchange) pumpSwitched(c *http2Call) {
	d := x.d
	n := len(x.rest)
	x.bytesIn += int64(n)
	x.wireIn += int64(n)
	if n > 0 && c.sendBody(x.rest, false, nil) != nil {
		return // the reader of the other direction finds out why
	}
	x.rest = nil
	b := d.e.buffers.Get()
	defer d.e.buffers.Put(b)
	for {
		n, err := d.stream.Read(b.B)
		end := n == 0 && conn.IsEnd(err)
		if n == 0 && err != nil && !end {
			if !conn.IsTimeout(err) {
				d.left.Store(true)
				d.interruptUpstream()
			}
			return
		}
		x.touch()
		x.bytesIn += int64(n)
		x.wireIn += int64(n)
		if c.sendBody(b.B[:n], end, nil) != nil {
			return // as above
		}
		if end {
			x.pumpDone.Store(true)
			return
		}
	}
}

// streamSwitched passes what the endpoint sends.
func (x *http1Exchange) streamSwitched(c *http2Call) *failure.Failure {
	d := x.d
	b := d.e.buffers.Get()
	defer d.e.buffers.Put(b)
	for {
		n, err := c.readBody(b.B)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return x.over2Failure(err)
		}
		x.touch()
		x.bytesOut += int64(n)
		if n > 0 {
			if f := x.toClient(b.B[:n]); f != nil {
				return f
			}
		}
		if end {
			_ = d.stream.CloseWrite() // who has closed both directions has left: the other one tells
			return nil
		}
	}
}

// The handshake of WebSocket in HTTP/1.1 proves that the server understood it
// (RFC 6455 §1.3). In HTTP/2 :protocol takes that place, and clients send no key
// (RFC 8441 §5): between the two the proof is ours to ask for and to give.
const (
	websocketType    = "websocket"
	websocketKeyName = "sec-websocket-key"
	websocketAccept  = "sec-websocket-accept"
	websocketGUID    = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 §1.3
	websocketNonce   = 16                                     // RFC 6455 §4.1
)

// websocketKey is the key that we sent in place of the client; empty: none.
type websocketKey struct{ key string }

// begin adds a key to a request for HTTP/1.1 that has none.
func (w *websocketKey) begin(h *message.Head, protocol []byte) {
	if string(protocol) != websocketType || w.key != "" {
		return
	}
	if _, present := h.Get(websocketKeyName); present {
		return
	}
	var nonce [websocketNonce]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	w.key = base64.StdEncoding.EncodeToString(nonce[:])
	h.SetString(websocketKeyName, w.key)
	if _, present := h.Get("sec-websocket-version"); !present {
		h.SetString("sec-websocket-version", "13")
	}
}

// accepted checks the answer to our key, and takes it off.
func (w *websocketKey) accepted(h *message.Head) bool {
	if w.key == "" {
		return true
	}
	accept, _ := h.Get(websocketAccept)
	ok := string(accept) == acceptOf(w.key)
	h.Remove(websocketAccept)
	return ok
}

// acceptFor answers a client's key where the endpoint had no need to.
func acceptFor(req, res *message.Head) {
	key, asked := req.Get(websocketKeyName)
	if _, answered := res.Get(websocketAccept); asked && !answered {
		res.SetString(websocketAccept, acceptOf(string(key)))
	}
}

func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}
