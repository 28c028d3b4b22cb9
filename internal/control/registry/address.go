package registry

import (
	"hash/fnv"
	"net/netip"
)

// autoSlots is how many addresses of 240.240.0.0/16 are given out, and autoPrime
// the modulus of the second hash: both as in Istio, so that services have the
// addresses here that they have there. The range is class E and never routed:
// an address that leaks goes nowhere.
const (
	autoSlots = 256 * 254
	autoPrime = 65011
	// autoUsedMax leaves half of the slots free: with fewer, collisions cost
	// more than addresses are worth.
	autoUsedMax = autoSlots / 2
)

// autoAddress is the address of a slot; none for slots whose address would end
// in 0. Istio moves all later services up by one there; here such a slot counts
// as taken, because an address that moves leads its callers to another service.
func autoAddress(slot uint32) (a netip.Addr, ok bool) {
	n := slot + 1
	return netip.AddrFrom4([4]byte{240, 240, byte(n / 255), byte(n % 255)}), n%255 != 0
}

// allocate gives an address to every service that needs one, in the order
// given. The hash of namespace and host chooses, and on a collision a second
// one. So an address depends on the set of services alone, and hardly ever on
// any other service. A service that several ServiceEntries define takes a slot
// for each and has the lowest, as in Istio. Services beyond the range get none:
// they are reached by name through HTTP ports only, as without an address.
func allocate(order []*unit) map[*unit]netip.Addr {
	out := make(map[*unit]netip.Addr)
	used := make(map[uint32]struct{})
	for _, u := range order {
		if !wantsAddress(u.base) {
			continue
		}
		for range u.contributions {
			if len(used) >= autoUsedMax {
				return out
			}
			slot := autoSlot(u.base.Namespace+"/"+u.base.Hostname, used)
			used[slot] = struct{}{}
			a, _ := autoAddress(slot)
			if have, dup := out[u]; !dup || a.Less(have) {
				out[u] = a
			}
		}
	}
	return out
}

// autoSlot finds a free slot by double hashing. The second hash alone may go
// round in a circle; then the next free slot is taken.
func autoSlot(key string, used map[uint32]struct{}) uint32 {
	h := fnv.New32a()
	h.Write([]byte(key))
	sum := h.Sum32()
	free := func(slot uint32) bool {
		_, taken := used[slot]
		_, ok := autoAddress(slot)
		return ok && !taken
	}
	slot := sum % autoSlots
	if free(slot) {
		return slot
	}
	step := autoPrime - sum%autoPrime
	for i := range uint32(len(used)) {
		if slot = (sum + (i+1)*step) % (autoSlots - 1); free(slot) {
			return slot
		}
	}
	for !free(slot) {
		slot = (slot + 1) % autoSlots
	}
	return slot
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
