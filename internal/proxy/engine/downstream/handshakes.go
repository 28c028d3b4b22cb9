package downstream

import (
	"container/list"
	"sync"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/proxy/engine/conn"
)

// handshakes are the clients' TLS handshakes that are going on, oldest first.
// The zero value is ready.
type handshakes struct {
	// Guarded by mu.
	mu    sync.Mutex
	going list.List // of *conn.Socket
}

// begin adds a handshake; when there are too many, the oldest ends. leave takes
// it out and reports whether it was left to end by itself.
func (h *handshakes) begin(sock *conn.Socket) (leave func() bool) {
	h.mu.Lock()
	mine := h.going.PushBack(sock)
	var oldest *conn.Socket
	if h.going.Len() > limit.HandshakesMax {
		oldest = h.going.Remove(h.going.Front()).(*conn.Socket)
	}
	h.mu.Unlock()
	if oldest != nil {
		_ = oldest.SetDeadline(conn.Past()) // one that is closed has ended
	}
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		n := h.going.Len()
		h.going.Remove(mine) // nothing when it was taken out
		return h.going.Len() < n
	}
}
