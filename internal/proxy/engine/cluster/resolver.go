package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Resolver asks DNS.
type Resolver interface {
	// Lookup returns the addresses of a name, none if there are none by what DNS says, and for how long they hold: 0 when that is not known.
	Lookup(ctx context.Context, host string, family DNSFamily) (addrs []netip.Addr, ttl time.Duration, err error)
}

// SystemResolver is Go's resolver, with the system's settings and hosts file. The lifetimes of its answers are read on the way.
type SystemResolver struct {
	// Server is asked instead of the system's; the zero value: those.
	Server netip.AddrPort
}

// Lookup implements Resolver.
func (s SystemResolver) Lookup(ctx context.Context, host string, family DNSFamily) ([]netip.Addr, time.Duration, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, 0, nil
	}
	networks := []string{"ip4", "ip6"}
	switch family {
	case DNSV4Only:
		networks = networks[:1]
	case DNSV6Only:
		networks = networks[1:]
	case DNSAll:
		networks = []string{"ip"}
	case DNSAuto:
		slices.Reverse(networks)
	case DNSV4Preferred:
	}
	var failed error
	for _, network := range networks {
		lives := &lifetimes{}
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if s.Server.IsValid() {
				address = s.Server.String()
			}
			return lives.dial(ctx, network, address)
		}}
		addrs, err := resolver.LookupNetIP(ctx, network, host)
		var told *net.DNSError
		switch {
		case errors.As(err, &told) && told.IsNotFound:
		case err != nil:
			failed = errors.Join(failed, err)
		default:
			for i := range addrs {
				addrs[i] = addrs[i].Unmap()
			}
			return addrs, lives.least(), nil
		}
	}
	return nil, 0, failed
}

// lifetimes finds the least TTL in the answers of one lookup.
type lifetimes struct {
	// Guarded by mu.
	mu   sync.Mutex
	ttl  uint32 // seconds
	seen bool
}

func (l *lifetimes) least() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.ttl) * time.Second
}

// read looks at a message; what is not one is left to the resolver.
func (l *lifetimes) read(message []byte) {
	var p dnsmessage.Parser
	if h, err := p.Start(message); err != nil || !h.Response || p.SkipAllQuestions() != nil {
		return
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil || p.SkipAnswer() != nil {
			return
		}
		l.mu.Lock()
		if !l.seen || h.TTL < l.ttl {
			l.ttl, l.seen = h.TTL, true
		}
		l.mu.Unlock()
	}
}

func (l *lifetimes) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if packets, ok := c.(*net.UDPConn); ok {
		return &packetTap{packets, l}, nil
	}
	return &streamTap{Conn: c, lives: l}, nil
}

// packetTap shows each answer to lives. It stays a net.PacketConn, by which Go's resolver knows UDP.
type packetTap struct {
	*net.UDPConn
	lives *lifetimes
}

// Read implements net.Conn.
func (t *packetTap) Read(b []byte) (int, error) {
	n, err := t.UDPConn.Read(b)
	if err == nil {
		t.lives.read(b[:n])
	}
	return n, err
}

// streamTap shows the first answer to lives: a connection carries one (RFC 1035 §4.2.2: two bytes of length before it).
type streamTap struct {
	net.Conn
	lives *lifetimes
	got   []byte
}

// Read implements net.Conn.
func (t *streamTap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if t.got = append(t.got, b[:n]...); len(t.got) > 2 {
		if end := 2 + int(binary.BigEndian.Uint16(t.got)); len(t.got) >= end {
			t.lives.read(t.got[2:end])
			t.got = nil
		}
	}
	return n, err
}
