package dns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/tullemesh/tulle/internal/agent/dns"
	"github.com/tullemesh/tulle/internal/limit"
)

// many are so many addresses.
func many(n int) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		out[i] = netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
	}
	return out
}

func TestAddressesOfAnAnswerAreLimited(t *testing.T) {
	const most = limit.DNSAnswerAddressesMax
	for n, want := range map[int]int{most - 1: most - 1, most: most, most + 1: most} {
		table, err := dns.NewTable(map[string]dns.Entry{"big.example": {IPs: many(n)}}, dns.Client{})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(ask(t, serve(t, dns.Options{}, table), "tcp", "big.example", mdns.TypeA).Answer); got != want {
			t.Errorf("of %d addresses %d are answered, want %d", n, got, want)
		}
	}
}

// TestUDPAnswersAreLimitedInBytes: names of different lengths make answers of one byte less and more.
func TestUDPAnswersAreLimitedInBytes(t *testing.T) {
	const (
		most               = limit.DNSMessageBytesMax
		records, perRecord = 74, 16              // with a compressed name
		rest               = 12 + 4 + 11 + 1 + 1 // header, type and class, OPT, the name's first and last length
	)
	for n, truncated := range map[int]bool{most - 1: false, most: false, most + 1: true} {
		name := strings.Repeat("a", n-rest-records*perRecord)
		table, err := dns.NewTable(map[string]dns.Entry{name: {IPs: many(records)}}, dns.Client{})
		if err != nil {
			t.Fatal(err)
		}
		m := ask(t, serve(t, dns.Options{}, table), "udp", name, mdns.TypeA, func(q *mdns.Msg) { q.SetEdns0(mdns.MaxMsgSize, false) })
		if m.Truncated != truncated || len(m.Answer) == records == truncated {
			t.Errorf("an answer of %d bytes: truncated %v, %d records; want truncated %v", n, m.Truncated, len(m.Answer), truncated)
		}
	}
}

func TestNamesOfATableAreLimited(t *testing.T) {
	const most, perHost = limit.DNSTableHostsMax, 1000
	c := dns.Client{}
	for i := range perHost - 1 {
		c.Search = append(c.Search, fmt.Sprintf("d%d", i)) // each is an alias of each host
	}
	hosts := map[string]dns.Entry{}
	for i := range most/perHost - 1 {
		hosts[fmt.Sprintf("h%d", i)] = dns.Entry{}
	}
	wildcards := 0 // which have no alias
	add := func(n int) {
		for ; wildcards < n; wildcards++ {
			hosts[fmt.Sprintf("*.w%d", wildcards)] = dns.Entry{}
		}
	}
	for _, n := range []int{most - 1, most, most + 1} {
		add(n - (most - perHost))
		table, err := dns.NewTable(hosts, c)
		if n > most && (err == nil || err.Error() != "500001 names, the limit is 500000") {
			t.Errorf("%d names: %v", n, err)
		}
		if n <= most && (err != nil || table.Len() != n) {
			t.Errorf("%d names: %v, the table has %d", n, err, table.Len())
		}
	}
}

// TestConnectionsForNamesAreLimited: one more than the limit waits until another one ends.
func TestConnectionsForNamesAreLimited(t *testing.T) {
	const most = limit.DNSConnectionsMax
	server := serve(t, dns.Options{}, mesh(t))
	var open []*mdns.Conn
	answered := func(c *mdns.Conn, wait time.Duration) bool {
		_ = c.SetReadDeadline(time.Now().Add(wait))
		m, err := c.ReadMsg()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil && text(m) == "NOERROR 240.240.0.1"
	}
	for n := 1; n <= most+1; n++ {
		raw, err := net.Dial("tcp", server.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		c := &mdns.Conn{Conn: raw}
		if err := c.WriteMsg(new(mdns.Msg).SetQuestion("reviews.", mdns.TypeA)); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if n < most-1 {
			continue
		}
		wait := 5 * time.Second
		if n > most {
			wait = 100 * time.Millisecond
		}
		if got := answered(c, wait); got != (n <= most) {
			t.Errorf("connection %d of %d: answered %v", n, most, got)
		}
	}
	_ = open[0].Close()
	if !answered(open[most], 5*time.Second) {
		t.Error("when one has ended, the next is not answered")
	}
}
