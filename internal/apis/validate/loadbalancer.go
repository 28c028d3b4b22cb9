package validate

import (
	"math/big"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

const maglevTableMax = 5000011

func (c *checker) loadBalancer(at string, l *networking.LoadBalancerSettings, ejects bool) {
	if l == nil {
		return
	}
	c.consistentHash(at+".consistentHash", l.GetConsistentHash())
	if l.LocalityLbSetting != nil && l.ZoneAwareLbSetting != nil {
		c.errorf(at+".zoneAwareLbSetting", "remove one of them", "zoneAwareLbSetting can't stand beside localityLbSetting")
	}
	c.locality(at+".localityLbSetting", l.LocalityLbSetting, ejects)
	if z := l.ZoneAwareLbSetting; z != nil {
		path := at + ".zoneAwareLbSetting"
		for i, label := range z.FailoverPriority {
			if topologyLabel(label) {
				c.errorf(index(path, "failoverPriority", i), "remove it", "%q is handled by zone-aware balancing itself", label)
			}
		}
		failover(c, path, z.Failover, len(z.FailoverPriority) > 0, ejects)
	}
	if w := l.Warmup; w != nil {
		path := at + ".warmup"
		if w.Duration == nil {
			c.errorf(path, "add duration", "duration is required")
		}
		c.duration(path+".duration", w.Duration)
		if w.MinimumPercent.GetValue() > 100 {
			c.errorf(path+".minimumPercent", "write 0 to 100", "%v is not a percentage", w.MinimumPercent.GetValue())
		}
		if w.Aggression != nil && w.Aggression.GetValue() <= 0 {
			c.errorf(path+".aggression", "write more than 0", "aggression %v is not above 0", w.Aggression.GetValue())
		}
	}
}

func (c *checker) consistentHash(at string, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	if h == nil {
		return
	}
	if k := h.GetHttpCookie(); k != nil {
		if k.Name == "" {
			c.errorf(at+".httpCookie", "add name", "the cookie has no name")
		}
		var names []string
		for i, a := range k.Attributes {
			path := index(at+".httpCookie", "attributes", i)
			switch {
			case a.GetName() == "":
				c.errorf(path, "add name", "the attribute has no name")
			case slices.Contains(names, a.Name):
				c.errorf(path+".name", "remove one of them", "attribute %q stands twice", a.Name)
			}
			names = append(names, a.GetName())
		}
	}
	if h.MinimumRingSize != 0 { //nolint:staticcheck // deprecated, and that is what we say
		c.warnf(at+".minimumRingSize", "use ringHash.minimumRingSize", "minimumRingSize is deprecated")
		if h.HashAlgorithm != nil {
			c.errorf(at+".minimumRingSize", "remove it", "minimumRingSize can't stand beside ringHash or maglev")
		}
	}
	if m := h.GetMaglev(); m != nil {
		switch path := at + ".maglev.tableSize"; {
		case m.TableSize == 0:
			c.errorf(at+".maglev", "add tableSize, a prime number such as 65537", "tableSize is required")
		case m.TableSize >= maglevTableMax:
			c.errorf(path, "write a prime number below 5000011", "tableSize %d is too large", m.TableSize)
		case !new(big.Int).SetUint64(m.TableSize).ProbablyPrime(0) && m.TableSize != 1: // exact below 2⁶⁴; Istio takes 1 for a prime
			c.errorf(path, "write a prime number such as 65537", "tableSize %d is not a prime number", m.TableSize)
		}
	}
}

func topologyLabel(label string) bool {
	return slices.Contains([]string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}, label)
}

func (c *checker) locality(at string, l *networking.LocalityLoadBalancerSetting, ejects bool) {
	if l == nil {
		return
	}
	if len(l.Distribute) > 0 && len(l.Failover) > 0 {
		c.errorf(at+".distribute", "remove one of them", "distribute can't stand beside failover")
		return
	}
	if len(l.Failover) > 0 {
		for i, label := range l.FailoverPriority {
			if topologyLabel(label) {
				c.errorf(index(at, "failoverPriority", i), "remove one of them", "%q can't stand beside failover", label)
				return
			}
		}
	}
	var from []string
	for i, d := range l.Distribute {
		path := index(at, "distribute", i)
		from = append(from, d.GetFrom())
		total := uint64(0)
		for _, to := range sortedKeys(d.GetTo()) {
			weight := d.To[to]
			if weight == 0 || weight > 100 {
				c.errorf(child(path+".to", to), "write 1 to 100", "weight %d is not a percentage", weight)
			}
			total += uint64(weight)
		}
		if total != 100 {
			c.errorf(path+".to", "let them add up to 100", "the weights add up to %d", total)
		}
		c.localities(path+".to", sortedKeys(d.GetTo()))
	}
	c.localities(at+".distribute", from)
	failover(c, at, l.Failover, len(l.FailoverPriority) > 0, ejects)
}

// failover checks from which region to which, of either way of balancing.
func failover[F interface {
	GetFrom() string
	GetTo() string
}](c *checker, at string, pairs []F, byPriority, ejects bool) {
	if (len(pairs) > 0 || byPriority) && !ejects {
		c.warnf(at, "add outlierDetection", "nothing fails over without outlierDetection")
	}
	for i, f := range pairs {
		path := index(at, "failover", i)
		switch {
		case f.GetFrom() == f.GetTo():
			c.errorf(path, "name another region", "region %q fails over to itself", f.GetFrom())
		case strings.ContainsAny(f.GetFrom()+f.GetTo(), "/"):
			c.errorf(path, "write the region only", "failover goes from region to region, found a zone")
		case strings.Contains(f.GetFrom()+f.GetTo(), "*"):
			c.errorf(path, "name the region", "a region can't be a wildcard")
		}
	}
}

// localities checks region/zone/subzone names for form and for overlap: one may not lie within another.
func (c *checker) localities(at string, localities []string) {
	covered := func(a, b string) bool {
		return a == b || a == "*" || strings.HasPrefix(b, strings.TrimSuffix(a, "/*")+"/")
	}
	for i, l := range localities {
		parts := strings.SplitN(l, "/", 3)
		switch n := strings.Count(l, "*"); {
		case n > 1 || n == 1 && !strings.HasSuffix(l, "*"):
			c.errorf(at, "write region/zone/*", "locality %q: a wildcard stands at the end only", l)
			return
		case slices.Contains(parts, ""):
			c.errorf(at, "write region, region/zone or region/zone/subzone", "locality %q has an empty part", l)
			return
		}
		for _, before := range localities[:i] {
			if covered(before, l) || covered(l, before) {
				c.errorf(at, "remove one of them", "localities %q and %q overlap", before, l)
				return
			}
		}
	}
}
