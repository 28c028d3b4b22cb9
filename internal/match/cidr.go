package match

import (
	"fmt"
	"net/netip"
	"strings"
)

// CIDR is a list of address ranges. The zero CIDR contains nothing.
type CIDR struct {
	prefixes []netip.Prefix
}

// NewCIDR reads ranges such as 10.0.0.0/8 and single addresses. Host bits may be set, as Envoy allows; zones may not.
func NewCIDR(ranges ...string) (CIDR, error) {
	c := CIDR{prefixes: make([]netip.Prefix, 0, len(ranges))}
	for _, text := range ranges {
		p, err := ParseCIDR(text)
		if err != nil {
			return CIDR{}, err
		}
		c.prefixes = append(c.prefixes, p)
	}
	return c, nil
}

// ParseCIDR reads one range or address. IPv4 addresses within IPv6 (::ffff:10.0.0.1) become IPv4.
func ParseCIDR(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%w: %q", ErrCIDR, text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w: %q", ErrCIDR, text)
	}
	const mappedBits = 96
	if p.Addr().Is4In6() && p.Bits() >= mappedBits {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits)
	}
	return p.Masked(), nil
}

// Match reports whether the address is in one of the ranges. It does not allocate.
func (c *CIDR) Match(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range c.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Empty reports whether there are no ranges.
func (c *CIDR) Empty() bool { return len(c.prefixes) == 0 }

// String lists the ranges, for traces.
func (c *CIDR) String() string {
	var b strings.Builder
	for i, p := range c.prefixes {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}
