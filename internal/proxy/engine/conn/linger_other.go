//go:build !linux

package conn

// untaken is not known on this platform.
func (s *Socket) untaken() int { return 0 }
