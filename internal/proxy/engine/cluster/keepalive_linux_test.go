package cluster

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestKeepaliveOfThePool(t *testing.T) {
	l, _ := counted(t)
	_, u := one(t, l, &Spec{KeepaliveTime: 11, KeepaliveInterval: 12, KeepaliveProbes: 3})
	raw, err := connect(t, u, Use{}).Socket().TCP().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, name, want int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 11}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 12}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		} {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.name); err != nil || got != o.want {
				t.Errorf("option %d.%d: %d, %v; want %d", o.level, o.name, got, err, o.want)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
