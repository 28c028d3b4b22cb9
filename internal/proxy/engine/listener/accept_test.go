package listener

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// A machine that is short of time may accept late: the socket stays for those
// who are connected.
func TestARetiredSocketStaysForThoseWhoWaitToBeAccepted(t *testing.T) {
	handled := make(chan struct{}, 8)
	a, err := bind(netip.MustParseAddrPort("127.0.0.1:0"), cap(handled), func(c net.Conn) {
		c.Close()
		handled <- struct{}{}
	}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for range cap(handled) {
		c, err := net.Dial("tcp4", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	a.Retire()
	select {
	case <-a.ended:
		t.Fatal("it closed on clients that were connected")
	case <-time.After(3 * retireTime):
	}
	a.loop.Go(a.accept)
	for range cap(handled) {
		select {
		case <-handled:
		case <-time.After(10 * time.Second):
			t.Fatal("a client was not accepted")
		}
	}
	a.WaitRetired()
	a.Wait()
}
