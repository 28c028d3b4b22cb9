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
	// No message of any protocol we read ends after its first byte, so this
	// waits only for a peer that sends its first byte alone.
	n, err := t.Conn.Read(p[1:])
	if err != nil && n == 0 {
		return 1, nil // the next read will tell
	}
	return n + 1, nil
}
