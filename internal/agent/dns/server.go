// Package dns answers the name queries of one workload (Istio's port 15053).
//
// In come queries by UDP and TCP, and a Table of the hosts of the mesh, which SetTable replaces as a whole; out go answers from the
// table, and for every other name the answers of the resolvers of resolv.conf. The mesh's own domains are answered from the table alone:
// a name that is not there does not exist. Without resolvers, as in a namespace that reaches no one, any other name fails with SERVFAIL:
// we do not know whether it exists. Server owns the queries under way; the table is an atomic pointer.
// It implements RFC 1035 for classes and types that applications ask (A, AAAA; NODATA for other types of our own names), RFC 2308 §2.2
// (NODATA), RFC 6891 (size only) and RFC 7766 (TCP). It leaves out caching, DNSSEC, zone transfers and updates.
// Read this file first, then table.go and forward.go.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"

	"github.com/tullemesh/tulle/internal/limit"
)

// ttlSeconds is the TTL of our answers, as Istio's: long enough to spare queries, short enough for a service that moves.
const ttlSeconds = 30

// tcpIdleTime ends a TCP connection without queries (RFC 7766 §6.2.3 wants seconds).
const tcpIdleTime = 8 * time.Second

// Options are what a Server is made with.
type Options struct {
	// Resolvers are asked in turn for names that are not the mesh's; none: such names fail.
	Resolvers []netip.AddrPort
	// Own are the domains of the mesh, such as cluster.local: names below them are never forwarded.
	Own []string
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
	// Observe are called for every event; nil ones are not.
	Observe Hooks
}

// Hooks are for metrics.
type Hooks struct {
	// Query is called with the outcome of every query: "table", "nxdomain", "forwarded", "failed", "refused".
	Query func(outcome string)
	// Upstream is called for every query sent to a resolver, with the time that it took and whether it was answered.
	Upstream func(took time.Duration, answered bool)
}

// Server answers queries. Make it with New.
type Server struct {
	options Options
	own     []string
	table   atomic.Pointer[Table]
	turn    atomic.Uint32
	waiting chan struct{} // a slot for each forwarded query
	// exchange asks one resolver: the function of that name, but in tests of times.
	exchange func(ctx context.Context, q *dns.Msg, network string, r netip.AddrPort) (*dns.Msg, error)
}

// New returns a server without a table: until SetTable, names of the mesh fail (SERVFAIL), because nobody knows whether they exist.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: o, waiting: make(chan struct{}, limit.DNSQueriesMax), exchange: exchange}
	for _, d := range o.Own {
		s.own = append(s.own, "."+canonical(d))
	}
	return s
}

// SetTable replaces the table; queries under way are answered from the old one.
func (s *Server) SetTable(t *Table) { s.table.Store(t) }

// Run answers on both sockets until ctx ends, closes them, and returns when no query is under way.
func (s *Server) Run(ctx context.Context, packets net.PacketConn, connections net.Listener) error {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.answer(serving, w, q) })
	servers := []*dns.Server{
		{PacketConn: packets, Handler: handler, UDPSize: dns.MinMsgSize},
		{Listener: netutil.LimitListener(connections, limit.DNSConnectionsMax), Handler: handler, IdleTimeout: func() time.Duration { return tcpIdleTime }},
	}
	ready := make(chan struct{}, len(servers))
	done := make(chan error, len(servers))
	for _, server := range servers {
		server.NotifyStartedFunc = func() { ready <- struct{}{} }
		go func() { done <- server.ActivateAndServe() }()
	}
	running, errs := len(servers), error(nil)
	for started := 0; started < len(servers) && errs == nil; {
		select {
		case <-ready: // before that a shutdown would be lost
			started++
		case err := <-done:
			running--
			errs = errors.Join(errors.New("serve names"), err)
		}
	}
	if errs == nil {
		select {
		case <-ctx.Done():
		case err := <-done:
			running--
			errs = fmt.Errorf("serve names: %w", err)
		}
	}
	cancel()
	for _, server := range servers {
		_ = server.Shutdown() // that it has ended already is fine
	}
	_, _ = packets.Close(), connections.Close()
	for range running {
		if err := <-done; err != nil && errs == nil && ctx.Err() == nil {
			errs = fmt.Errorf("serve names: %w", err)
		}
	}
	return errs
}

// answer answers one query.
func (s *Server) answer(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	reply, outcome := s.reply(ctx, w, q)
	if s.options.Observe.Query != nil {
		s.options.Observe.Query(outcome)
	}
	size := dns.MaxMsgSize
	if w.RemoteAddr().Network() == "udp" {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), limit.DNSMessageBytesMax)
		}
	}
	reply.Truncate(size)
	if err := w.WriteMsg(reply); err != nil {
		s.options.Log.Debug("name query not answered", slog.Any("error", err))
	}
}

// reply decides what a query gets.
func (s *Server) reply(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) (*dns.Msg, string) {
	refuse := func(code int) (*dns.Msg, string) { return new(dns.Msg).SetRcode(q, code), "refused" }
	switch {
	case q.Response || q.Opcode != dns.OpcodeQuery:
		return refuse(dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return refuse(dns.RcodeFormatError)
	}
	question := q.Question[0]
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		m, outcome := refuse(dns.RcodeBadVers)
		return m.SetEdns0(limit.DNSMessageBytesMax, false), outcome
	}
	if question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY {
		return refuse(dns.RcodeRefused)
	}
	table := s.table.Load()
	if ips, alias, found := table.Lookup(question.Name); found {
		return s.known(q, ips, alias), "table"
	}
	own := s.isOwn(question.Name)
	if own && table == nil { // we do not know yet which names there are
		return ednsOf(q, new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)), "failed"
	}
	if own {
		return ednsOf(q, new(dns.Msg).SetRcode(q, dns.RcodeNameError)), "nxdomain"
	}
	m, err := s.forward(ctx, q, w.RemoteAddr().Network())
	if err != nil {
		s.options.Log.Debug("name not resolved", slog.Any("error", err))
		return ednsOf(q, new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)), "failed"
	}
	return m, "forwarded"
}

// known answers a name of the table: its addresses of the type that was asked for, or none (NODATA). A name with a search domain is an
// alias of the name without.
func (s *Server) known(q *dns.Msg, ips []netip.Addr, alias string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	name, kind := q.Question[0].Name, q.Question[0].Qtype
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttlSeconds}
	}
	if alias != "" {
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(dns.TypeCNAME), Target: alias})
		name = alias
	}
	var fit []netip.Addr
	for _, ip := range ips {
		if kind == dns.TypeANY || kind == dns.TypeA && ip.Is4() || kind == dns.TypeAAAA && ip.Is6() {
			fit = append(fit, ip)
		}
	}
	// Clients take the first address: each answer begins with another one.
	first := int(s.turn.Add(1))
	for i := range min(len(fit), limit.DNSAnswerAddressesMax) {
		ip := fit[(first+i)%len(fit)]
		if ip.Is4() {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: ip.AsSlice()})
		} else {
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: ip.AsSlice()})
		}
	}
	return ednsOf(q, m)
}

// isOwn tells names that only the table can answer: those below the mesh's domains, and single labels, which no resolver outside knows.
func (s *Server) isOwn(name string) bool {
	name = canonical(name)
	if strings.Count(name, ".") == 1 && name != "." {
		return true
	}
	for _, d := range s.own {
		if strings.HasSuffix("."+name, d) {
			return true
		}
	}
	return false
}

// ednsOf answers EDNS with EDNS (RFC 6891 §7).
func ednsOf(q, m *dns.Msg) *dns.Msg {
	if q.IsEdns0() != nil {
		m.SetEdns0(limit.DNSMessageBytesMax, false)
	}
	return m
}
