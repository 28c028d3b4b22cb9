package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/tullemesh/tulle/internal/limit"
)

// resolverTime bounds one resolver, so that a dead first one leaves time for a second.
const resolverTime = 2 * time.Second

var (
	// errIsolated: there is no resolver. errBusy: too many queries wait for one.
	errIsolated = errors.New("there is no resolver outside of the mesh")
	errBusy     = fmt.Errorf("%d queries wait for a resolver", limit.DNSQueriesMax)
)

// forward asks the resolvers in turn, over the transport that the workload used, until one answers.
func (s *Server) forward(ctx context.Context, q *dns.Msg, network string) (*dns.Msg, error) {
	name := q.Question[0].Name
	if len(s.options.Resolvers) == 0 {
		return nil, fmt.Errorf("resolve %s: %w", name, errIsolated)
	}
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return nil, fmt.Errorf("resolve %s: %w", name, errBusy)
	}
	ctx, cancel := context.WithTimeout(ctx, limit.DNSForwardTime)
	defer cancel()
	var errs error
	for _, r := range s.options.Resolvers {
		began := time.Now()
		m, err := s.exchange(ctx, q, network, r)
		if s.options.Observe.Upstream != nil {
			s.options.Observe.Upstream(time.Since(began), err == nil)
		}
		if err == nil {
			return m, nil
		}
		errs = errors.Join(errs, fmt.Errorf("resolver %s: %w", r, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("resolve %s: %w", name, errs)
}

// exchange asks one resolver. The question goes out under an identifier of our own (RFC 5452 §9.2) and from a port of its own.
func exchange(ctx context.Context, q *dns.Msg, network string, r netip.AddrPort) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, resolverTime)
	defer cancel()
	out := q.Copy()
	out.Id = dns.Id()
	c := &dns.Client{Net: network, Timeout: resolverTime, UDPSize: dns.MaxMsgSize}
	m, _, err := c.ExchangeContext(ctx, out, r.String())
	switch {
	case err != nil:
		return nil, err
	case !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype || m.Question[0].Qclass != q.Question[0].Qclass ||
		!strings.EqualFold(m.Question[0].Name, q.Question[0].Name):
		return nil, errors.New("it answered another question")
	}
	m.Id = q.Id
	return m, nil
}

// Resolv is what a resolv.conf is to say (resolv.conf(5)).
type Resolv struct {
	// Servers are the name servers, at port 53, in order.
	Servers []netip.AddrPort
	// Search are the search domains, without final dots.
	Search []string
}

// Text writes resolv.conf for a workload in a namespace: the server, the domains, and options as a pod has them.
func (c Resolv) Text() string {
	var b strings.Builder
	for _, s := range c.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s.Addr())
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Search, " "))
	}
	b.WriteString("options ndots:5\n")
	return b.String()
}

// ListenBoth opens the UDP and the TCP socket of a server at one address; with port 0 both get the same free port.
func ListenBoth(ctx context.Context, address netip.AddrPort) (net.PacketConn, net.Listener, error) {
	var lc net.ListenConfig
	for try := 0; ; try++ {
		ln, err := lc.Listen(ctx, "tcp", address.String())
		if err != nil {
			return nil, nil, fmt.Errorf("listen for names: %w", err)
		}
		packets, err := lc.ListenPacket(ctx, "udp", ln.Addr().String())
		if err == nil {
			return packets, ln, nil
		}
		_ = ln.Close()
		if address.Port() != 0 || try == 10 { // the kernel's free TCP port may be taken for UDP
			return nil, nil, fmt.Errorf("listen for names: %w", err)
		}
	}
}
