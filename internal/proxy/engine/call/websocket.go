package call

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 §4.2.2 says so; nothing is kept secret by it
	"encoding/base64"

	"github.com/tullemesh/tulle/internal/proxy/engine/message"
)

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

// WebSocketKey is the key that we sent in place of the client; empty: none.
type WebSocketKey struct{ key string }

// Begin adds a key to a request for HTTP/1.1 that has none.
func (w *WebSocketKey) Begin(h *message.Head, protocol []byte) {
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

// Accepted checks the answer to our key, and takes it off.
func (w *WebSocketKey) Accepted(h *message.Head) bool {
	if w.key == "" {
		return true
	}
	accept, _ := h.Get(websocketAccept)
	ok := string(accept) == AcceptOf(w.key)
	h.Remove(websocketAccept)
	return ok
}

// AcceptFor answers a client's key where the endpoint had no need to.
func AcceptFor(req, res *message.Head) {
	key, asked := req.Get(websocketKeyName)
	if _, answered := res.Get(websocketAccept); asked && !answered {
		res.SetString(websocketAccept, AcceptOf(string(key)))
	}
}

// AcceptOf is what proves that a server understood a client's key.
func AcceptOf(key string) string {
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}
