package registry

import (
	"encoding/binary"
	"net/netip"

	"github.com/cespare/xxhash/v2"
)

// autoBits is the size of the range of allocated addresses, 240.240.0.0/16, as
// Istio has it: class E is never routed, so an address that leaks goes nowhere.
const autoBits = 16

// autoFirst and autoLast bound the host part: the network and broadcast
// addresses, and their neighbours, are left free.
const (
	autoFirst = 2
	autoLast  = 1<<autoBits - 2
)

// allocate gives an address to every service that needs one, in the order
// given. The hash of namespace and host chooses; the next free address is
// taken on a collision. So an address depends on the set of services alone, and
// hardly ever on any other service. Services beyond the range get none: they
// are reached by name through HTTP ports only, as Istio's without an address.
func allocate(services []*Service) map[*Service]netip.Addr {
	out := make(map[*Service]netip.Addr, len(services))
	used := make(map[uint16]struct{}, len(services))
	for _, s := range services {
		if !wantsAddress(s) {
			continue
		}
		if len(used) > autoLast-autoFirst {
			return out
		}
		n := uint16(autoFirst + xxhash.Sum64String(s.Namespace+"/"+s.Hostname)%(autoLast-autoFirst+1))
		for {
			if _, taken := used[n]; !taken {
				break
			}
			if n++; n > autoLast || n < autoFirst {
				n = autoFirst
			}
		}
		used[n] = struct{}{}
		out[s] = autoAddress(n)
	}
	return out
}

func autoAddress(n uint16) netip.Addr {
	b := [4]byte{240, 240}
	binary.BigEndian.PutUint16(b[2:], n)
	return netip.AddrFrom4(b)
}

// wantsAddress follows Istio: no address of its own, a concrete host, and
// endpoints that the mesh knows or resolves. Headless services and resolution
// NONE mean the caller's address.
func wantsAddress(s *Service) bool {
	if len(s.Addresses) > 0 || s.Headless || s.Hostname == "" || s.Hostname[0] == '*' {
		return false
	}
	return s.Resolution == Static || s.Resolution == DNS || s.Resolution == DNSRoundRobin
}
