//go:build !linux

package conn

// Pipes are for kernels that pass bytes from socket to socket.
type Pipes struct{}

// Close does nothing.
func (*Pipes) Close() {}

// CanSplice is false: bytes are copied.
func (*Socket) CanSplice() bool { return false }

// Splice passes nothing on.
func (*Socket) Splice(*Socket, *Pipes) (int64, error) { return 0, ErrNoPipe }
