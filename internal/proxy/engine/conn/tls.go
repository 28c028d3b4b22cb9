package conn

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"syscall"
)

// TLS is a Stream over crypto/tls.
type TLS struct {
	*tls.Conn
	socket  *Socket
	records *records // nil: nobody looks

	// Owned by the reader.
	one  [1]byte
	held bool // one holds a byte that Read has not returned yet
}

// NewTLS wraps a TLS connection made on socket.
func NewTLS(c *tls.Conn, socket *Socket) *TLS { return &TLS{Conn: c, socket: socket} }

// NewTLSClient is the client's side of a connection that begins on socket. Look
// tells its state at little cost.
func NewTLSClient(socket *Socket, cfg *tls.Config) *TLS {
	r := &records{Socket: socket}
	return &TLS{Conn: tls.Client(r, cfg), socket: socket, records: r}
}

// records is a socket as TLS reads it, which finds where records end (RFC 8446
// §5.1). TLS reads when it has no whole record.
type records struct {
	*Socket
	head  [recordHeadBytes]byte
	have  int // bytes of head
	left  int // bytes of the record behind head
	ended int // records that the last read completed

	asks     bool   // TLS writes a question
	question []byte // its records, which go out when TLS reads for the answer
}

const recordHeadBytes = 5

// within reports whether a record has begun and not ended.
func (r *records) within() bool { return r.have > 0 || r.left > 0 }

// Read implements io.Reader.
func (r *records) Read(p []byte) (int, error) {
	r.ended = 0
	n, err := r.read(p)
	for p = p[:n]; len(p) > 0; {
		if r.left == 0 {
			m := copy(r.head[r.have:], p)
			p = p[m:]
			if r.have += m; r.have < recordHeadBytes {
				break
			}
			r.have, r.left = 0, int(binary.BigEndian.Uint16(r.head[3:]))
		}
		m := min(r.left, len(p))
		p = p[m:]
		if r.left -= m; r.left == 0 {
			r.ended++
		}
	}
	return n, err
}

// read sends the question first, if there is one and nothing else came before.
func (r *records) read(p []byte) (int, error) {
	if len(r.question) == 0 || len(r.pending) > 0 {
		return r.Socket.Read(p)
	}
	wrote, n, err := r.roundTrip(r.question, p)
	if wrote == 0 && err != nil {
		if n > 0 {
			err = nil // may be of TLS alone, such as a ticket: the question waits
		}
		return n, err
	}
	rest := r.question[wrote:]
	r.question = r.question[:0]
	if n > 0 || err != nil {
		return n, err
	}
	if len(rest) > 0 { // the kernel's buffer is full
		if _, err := r.Socket.Write(rest); err != nil {
			return 0, err
		}
	}
	return r.Socket.Read(p)
}

// Write implements io.Writer. What TLS itself writes while a question waits goes
// behind it, as records have numbers.
func (r *records) Write(p []byte) (int, error) {
	if !r.asks && len(r.question) == 0 {
		return r.Socket.Write(p)
	}
	r.question = append(r.question, p...)
	return len(p), nil
}

// questionBytesMax is the largest memory for questions that a connection keeps.
const questionBytesMax = 4 << 10

// Socket implements Stream.
func (t *TLS) Socket() *Socket { return t.socket }

// RoundTrip implements Stream. The question is all written or none of it.
func (t *TLS) RoundTrip(question, answer []byte) (wrote, n int, err error) {
	r := t.records
	if t.held || r == nil || r.within() || r.ended > 1 {
		// A look says what TLS holds, where there is anything.
		if t.Look() != Quiet {
			return 0, 0, ErrStale
		}
		if r == nil {
			wrote, err = t.Conn.Write(question)
			return wrote, 0, err
		}
	}
	r.asks = true
	_, err = t.Conn.Write(question)
	r.asks = false
	if err == nil {
		n, err = t.Conn.Read(answer)
	}
	waits := len(r.question) > 0
	if cap(r.question) > questionBytesMax {
		r.question = nil
	}
	r.question = r.question[:0]
	switch {
	case !waits:
		return len(question), n, err
	case IsTimeout(err):
		return 0, 0, err
	}
	return 0, 0, ErrStale
}

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

// Look implements Stream. What came behind the record that was read last is in
// crypto/tls, where the socket does not show it. What the socket shows may be of
// TLS alone, such as a ticket.
func (t *TLS) Look() State {
	if t.held || t.records != nil && t.records.within() {
		return Readable
	}
	if t.records != nil && t.records.ended <= 1 {
		if s := t.socket.Look(); s != Readable {
			return s
		}
	}
	t.socket.tries = true
	n, err := t.Conn.Read(t.one[:])
	t.socket.tries = false
	switch {
	case n > 0:
		t.held = true
		return Readable
	case errors.Is(err, syscall.EAGAIN):
		return Quiet
	}
	return Ended
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
