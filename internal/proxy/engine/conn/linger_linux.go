package conn

import "golang.org/x/sys/unix"

// untaken is how many bytes of ours the peer's kernel has not acknowledged, the
// end of our side included.
func (s *Socket) untaken() (n int) {
	_ = s.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}
