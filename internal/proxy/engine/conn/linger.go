package conn

import "time"

// lingerLook is how often Linger looks whether the peer has our last bytes.
const lingerLook = 5 * time.Millisecond

// Linger ends a connection in stages, so that the kernel does not reset it
// before the peer has our last bytes (RFC 9112 §9.6). It ends our side and reads
// on with b, most bytes of what the peer still sends. When that was not all, it
// reads no more and waits until the peer's kernel has taken what is ours, as what
// is unread makes of the close a reset. That takes patience at most; the caller
// closes.
func Linger(s Stream, b []byte, most int, patience time.Duration) {
	if s.CloseWrite() != nil {
		return
	}
	until := time.Now().Add(patience)
	_ = s.Socket().SetReadDeadline(until)
	for total := 0; total < most; {
		n, err := s.Read(b)
		if err != nil {
			return
		}
		total += n
	}
	look := time.NewTicker(lingerLook)
	defer look.Stop()
	for s.Socket().untaken() > 0 && time.Now().Before(until) {
		<-look.C
	}
}
