package held

import (
	"fmt"
	"net"
	"testing"
)

func TestAHeldPortCanBeListenedAtByItsNumber(t *testing.T) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", Port(t, "127.0.0.1")))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestAHeldPortIsNotGivenToOthers(t *testing.T) {
	port := Port(t, "127.0.0.1")
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.Addr().(*net.TCPAddr).Port == port {
			t.Fatal("the kernel gave it away")
		}
	}
}
