// Package chains reads tables of filter chains and connections with the chain
// that takes each, for tests that hold our matching to a table and for those
// that hold the table to stock Envoy.
//
// A table is text. "set" begins a listener's chains, "chain" adds one, and
// "conn" is a connection to it with the chain that takes it behind an arrow
// ("default": none of them):
//
//	set ports
//	chain a dport=80 dst=10.0.0.0/8,10.1.0.0/16
//	chain b sni=*.example.com,example.com tp=tls alpn=h2 direct=127.0.0.0/8 type=local src=10.9.0.0/16 sport=1,2
//	conn an address of a -> a: to=10.1.0.1:80 from=10.9.9.9:40000 direct=127.0.0.5:1
//	conn TLS -> b: tls sni=x.example.com alpn=h2,http/1.1
package chains

import (
	"bufio"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/proxy/engine/fact"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// Set is a listener's chains with connections to it.
type Set struct {
	Name   string
	Chains []*listener.Chain
	Conns  []Conn
}

// Conn is a connection and the name of the chain that takes it.
type Conn struct {
	Name, Want string
	Facts      fact.Conn
}

// Parse reads a table. Errors name the line.
func Parse(text string) ([]Set, error) {
	var sets []Set
	s := bufio.NewScanner(strings.NewReader(text))
	for n := 1; s.Scan(); n++ {
		kind, rest, _ := strings.Cut(strings.TrimSpace(s.Text()), " ")
		var err error
		switch {
		case kind == "" || strings.HasPrefix(kind, "#"):
		case kind == "set":
			sets = append(sets, Set{Name: rest})
		case len(sets) == 0:
			err = fmt.Errorf("%s before a set", kind)
		case kind == "chain":
			err = sets[len(sets)-1].addChain(rest)
		case kind == "conn":
			err = sets[len(sets)-1].addConn(rest)
		default:
			err = fmt.Errorf("%s is not known", kind)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return sets, s.Err()
}

func (s *Set) addChain(text string) (err error) {
	name, rest, _ := strings.Cut(text, " ")
	c := &listener.Chain{Name: name}
	m := &c.Match
	for word := range strings.FieldsSeq(rest) {
		key, value, _ := strings.Cut(word, "=")
		list := strings.Split(value, ",")
		switch key {
		case "dport":
			var ports []uint16
			if ports, err = parsePorts(list); err == nil {
				m.DestinationPort = ports[0]
			}
		case "dst":
			m.DestinationPrefix, err = parsePrefixes(list)
		case "sni":
			m.ServerNames = list
		case "tp":
			m.Transport = value
		case "alpn":
			m.ApplicationProtos = list
		case "direct":
			m.DirectSourcePrefix, err = parsePrefixes(list)
		case "type":
			m.SourceType = map[string]listener.SourceType{"local": listener.SourceSameOrLoopback, "external": listener.SourceExternal}[value]
		case "src":
			m.SourcePrefix, err = parsePrefixes(list)
		case "sport":
			m.SourcePorts, err = parsePorts(list)
		default:
			err = fmt.Errorf("%q is no criterion", key)
		}
		if err != nil {
			return err
		}
	}
	s.Chains = append(s.Chains, c)
	return nil
}

func (s *Set) addConn(text string) (err error) {
	head, rest, ok := strings.Cut(text, ":")
	name, want, arrow := strings.Cut(head, " -> ")
	if !ok || !arrow {
		return fmt.Errorf("%q is not name, arrow, chain and colon", text)
	}
	c := Conn{Name: name, Want: want, Facts: fact.Conn{
		Local: netip.MustParseAddrPort("192.0.2.1:80"), Remote: netip.MustParseAddrPort("198.51.100.1:40000"), DirectRemote: netip.MustParseAddrPort("127.0.0.1:1"),
	}}
	for word := range strings.FieldsSeq(rest) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "to":
			c.Facts.Local, err = netip.ParseAddrPort(value)
		case "from":
			c.Facts.Remote, err = netip.ParseAddrPort(value)
		case "direct":
			c.Facts.DirectRemote, err = netip.ParseAddrPort(value)
		case "tls":
			c.Facts.TLS = true
		case "sni":
			c.Facts.SNI = value
		case "alpn":
			c.Facts.ALPN = strings.Split(value, ",")
		default:
			err = fmt.Errorf("%q is no fact", key)
		}
		if err != nil {
			return err
		}
	}
	s.Conns = append(s.Conns, c)
	return nil
}

func parsePrefixes(list []string) (out []netip.Prefix, err error) {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePorts(list []string) (out []uint16, err error) {
	for _, s := range list {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return nil, err
		}
		out = append(out, uint16(n))
	}
	return out, nil
}
