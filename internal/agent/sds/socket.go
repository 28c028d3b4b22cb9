package sds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// socketPathBytesMax is what fits sockaddr_un on Linux with its final zero;
// macOS has four bytes less and answers with an error of its own.
const socketPathBytesMax = 107

// probeTimeout bounds the question whether a socket is alive.
const probeTimeout = time.Second

// ErrInUse says that another process serves a socket.
var ErrInUse = errors.New("socket is in use")

// Listen returns a listener on a Unix socket of mode 0600. A socket that a
// dead process left behind is replaced, one that is served is not (ErrInUse),
// and neither is a file of another kind. Closing the listener removes the
// socket.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := checkFree(ctx, path); err != nil {
		return nil, fmt.Errorf("secret socket: %w", err)
	}
	// The socket is made in a directory that only we can enter, and moved when
	// its mode is right: there is no moment at which others could connect.
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("secret socket: %w", err)
	}
	defer os.RemoveAll(private)
	fresh := filepath.Join(private, "s")
	if most := max(len(path), len(fresh)); most > socketPathBytesMax {
		return nil, fmt.Errorf("secret socket: path %s and a temporary name beside it need %d bytes, at most %d are allowed; choose a shorter state directory", path, most, socketPathBytesMax)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", fresh)
	if err != nil {
		return nil, fmt.Errorf("secret socket: %w", err)
	}
	// Its own removal would look for the temporary name.
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("secret socket: %w", err), l.Close())
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("secret socket: %w", err), l.Close())
	}
	s := &socket{Listener: l}
	s.close = sync.OnceValue(func() error {
		err := l.Close()
		// Only ours: a successor may have put its own there.
		if now, e := os.Lstat(path); e == nil && os.SameFile(info, now) {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	})
	return s, nil
}

// checkFree refuses a path that holds something alive or no socket.
func checkFree(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%w: another process serves %s", ErrInUse, path), c.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInUse, err)
}

// socket removes its path when it is closed.
type socket struct {
	net.Listener
	close func() error
}

// Close implements net.Listener; it may be called again.
func (s *socket) Close() error { return s.close() }
