package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rules builds the rules of one workload's namespace. The order is that of Istio's chains (tools/istio-iptables/pkg/capture of
// istio/istio: ISTIO_OUTPUT, ISTIO_INBOUND), so that what is captured there is captured here:
//
//	output      lo, from 127.0.0.6                       as it is: the proxy's call to its own workload
//	            lo, not to 127.0.0.1, proxy, not 53      15006: the proxy's call to its own service comes in as any other
//	            lo, not proxy, not 53                    as it is: the workload talks to itself
//	            proxy                                    as it is
//	            udp and tcp to 53                        15053
//	            to 127.0.0.1                             as it is
//	            tcp                                      15001
//	prerouting  tcp to 15008, 15020, 15021, 15090        as it is
//	            tcp                                      15006
//
// Beside them a filter keeps what no proxy sees from leaving or coming in: UDP other than names, and IPv6 outside of lo.
type rules struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

// uncaptured are the inbound ports that reach their listener directly: HBONE, merged metrics, readiness, proxy metrics.
func uncaptured() []uint16 { return []uint16{15008, 15020, 15021, 15090} }

// loopedSource is the address that inbound passthrough binds, by which the proxy's own calls to the workload are told from new ones.
func loopedSource() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 6}) }

// installRules writes the rules of a workload into the namespace of the calling thread. The table's name marks the namespace as the run's.
func installRules(table string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	r := &rules{conn: conn, table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})}
	r.output()
	r.prerouting()
	r.filter()
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables rules: %w; does the kernel have nf_tables, nft_redir and nft_nat?", err)
	}
	return nil
}

func (r *rules) begin(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) {
	r.chain = r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority})
}

// rule appends a rule of concatenated parts.
func (r *rules) rule(parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: all})
}

func (r *rules) output() {
	r.begin("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	r.rule(ipv4(), outOf("lo"), from(loopedSource()), accept())
	for _, owner := range []expr.MetaKey{expr.MetaKeySKUID, expr.MetaKeySKGID} {
		r.rule(ipv4(), outOf("lo"), to(localhost, expr.CmpOpNeq), tcp(), port(53, expr.CmpOpNeq), proxy(owner, expr.CmpOpEq), redirect(InboundPort))
		r.rule(ipv4(), outOf("lo"), tcp(), port(53, expr.CmpOpNeq), proxy(owner, expr.CmpOpNeq), accept())
		r.rule(ipv4(), proxy(owner, expr.CmpOpEq), accept())
	}
	r.rule(ipv4(), udp(), port(53, expr.CmpOpEq), redirect(DNSPort))
	r.rule(ipv4(), tcp(), port(53, expr.CmpOpEq), redirect(DNSPort))
	r.rule(ipv4(), to(localhost, expr.CmpOpEq), accept())
	r.rule(ipv4(), tcp(), redirect(OutboundPort))
}

func (r *rules) prerouting() {
	r.begin("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	for _, p := range uncaptured() {
		r.rule(ipv4(), tcp(), port(p, expr.CmpOpEq), accept())
	}
	r.rule(ipv4(), tcp(), redirect(InboundPort))
}

// filter drops, and counts, what would pass the proxy by. Names are redirected before (nat runs before filter), to lo.
func (r *rules) filter() {
	drop := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	reject := []expr.Any{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
	r.begin("send", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	r.rule(outOf("lo"), accept())
	r.rule(family(unix.NFPROTO_IPV6), drop)
	// A redirected query goes to 127.0.0.1, but this hook still sees the interface that it had before.
	r.rule(ipv4(), loopback(), accept())
	r.rule(udp(), reject)
	r.begin("receive", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	r.rule(name(expr.MetaKeyIIFNAME, "lo"), accept())
	r.rule(family(unix.NFPROTO_IPV6), drop)
	r.rule(udp(), drop)
}

// The parts of rules. Register 1 holds what is compared.

func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func family(f byte) []expr.Any { return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{f}) }
func ipv4() []expr.Any         { return family(unix.NFPROTO_IPV4) }
func tcp() []expr.Any          { return meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_TCP}) }
func udp() []expr.Any          { return meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_UDP}) }

// name compares an interface's name, which the kernel pads to 16 bytes.
func name(key expr.MetaKey, ifname string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, ifname)
	return meta(key, expr.CmpOpEq, b)
}

func outOf(ifname string) []expr.Any { return name(expr.MetaKeyOIFNAME, ifname) }

func proxy(owner expr.MetaKey, op expr.CmpOp) []expr.Any {
	return meta(owner, op, binary.NativeEndian.AppendUint32(nil, ProxyUID))
}

// from and to compare the IPv4 source (RFC 791 §3.1, byte 12) and destination (byte 16).
func from(a netip.Addr) []expr.Any { return address(12, a, expr.CmpOpEq) }

func to(a netip.Addr, op expr.CmpOp) []expr.Any { return address(16, a, op) }

func address(offset uint32, a netip.Addr, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Cmp{Op: op, Register: 1, Data: a.AsSlice()},
	}
}

// loopback compares the first byte of the IPv4 destination with 127.
func loopback() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
	}
}

// port compares the destination port (TCP and UDP: byte 2).
func port(p uint16, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: op, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func redirect(p uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)}, &expr.Redir{RegisterProtoMin: 1}}
}
