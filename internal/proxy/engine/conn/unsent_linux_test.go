package conn

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/limit"
)

// TestTheKernelHoldsLittleForAPeerThatDoesNotRead: a send buffer would grow to megabytes. The kernel takes whole segments of what is written, so
// the last may pass the limit.
func TestTheKernelHoldsLittleForAPeerThatDoesNotRead(t *testing.T) {
	const segment = 64 << 10
	for _, dialed := range []bool{true, false} {
		a, b := pair(t)
		w, r := a, b
		if !dialed {
			w, r = b, a
		}
		_ = r.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		unsent := 0
		for full := false; !full; {
			_ = w.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err := w.Write(make([]byte, segment))
			full = IsTimeout(err)
			if err != nil && !full {
				t.Fatal(err)
			}
			_ = w.raw.Control(func(fd uintptr) { unsent, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
			if unsent > 4*limit.UnsentBytesMax {
				break
			}
		}
		if unsent <= limit.UnsentBytesMax-1 || unsent >= limit.UnsentBytesMax+segment+1 {
			t.Errorf("dialed %v: %d bytes wait in the kernel, want %d and a segment at most", dialed, unsent, limit.UnsentBytesMax)
		}
		// All that was taken arrives.
		_ = r.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20) })
		if err := w.CloseWrite(); err != nil {
			t.Error(err)
		}
		_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
		for text := make([]byte, segment); ; {
			if _, err := r.Read(text); err != nil {
				if os.IsTimeout(err) {
					t.Error(err)
				}
				break
			}
		}
		_, _ = a.Close(), b.Close()
	}
}
