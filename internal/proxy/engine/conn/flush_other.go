//go:build !linux

package conn

// tryWrite waits where there are no raw calls.
type tryWrite struct{}

func (*tryWrite) prepare() {}

func (*tryWrite) write(s *Socket, p []byte) (rest []byte, err error) {
	_, err = s.writeAll(p)
	return nil, err
}

// ReadTurns reads until the stream's end, an error, or Took says so (nil).
func (s *Socket) ReadTurns(t Turns) error { return readTurns(s, t) }
