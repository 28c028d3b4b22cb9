package conn

import "crypto/tls"

// TLS is a Stream over crypto/tls.
type TLS struct {
	*tls.Conn
	socket *Socket

	// Owned by the reader.
	one  [1]byte
	held bool // one holds a byte that Read has not returned yet
}

// NewTLS wraps a TLS connection made on socket.
func NewTLS(c *tls.Conn, socket *Socket) *TLS { return &TLS{Conn: c, socket: socket} }

// Socket implements Stream.
func (t *TLS) Socket() *Socket { return t.socket }

// AwaitReadable takes one byte, because records, not sockets, become
// readable; crypto/tls then keeps no more than the record's rest.
func (t *TLS) AwaitReadable() error {
	if t.held {
		return nil
	}
	_, err := t.Conn.Read(t.one[:])
	t.held = err == nil
	return err
}

// Read implements io.Reader. After AwaitReadable it returns the byte taken
// there and what follows it in the same record.
func (t *TLS) Read(p []byte) (int, error) {
	if !t.held || len(p) == 0 {
		return t.Conn.Read(p)
	}
	p[0] = t.one[0]
	t.held = false
	if len(p) == 1 {
		return 1, nil
	}
	// What follows in the record is at hand without a call. A record of one
	// byte may be all that the peer says: nothing is waited for.
	t.socket.tries = true
	n, _ := t.Conn.Read(p[1:]) // the next read will tell
	t.socket.tries = false
	return n + 1, nil
}
