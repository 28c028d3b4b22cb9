package cluster

import (
	"slices"
	"sync/atomic"
)

// Host is what balancing knows of one endpoint while the proxy runs. Hosts are
// shared by all HostSets that hold the endpoint, whoever keeps them live.
type Host struct {
	// Key is the endpoint's address as text; it is the host's identity.
	Key string
	// Active counts requests in flight (connections for TCP).
	Active atomic.Int64
	// up is the live endpoint that the host belongs to; nil outside Live.
	up *Upstream
}

// Cursor is the position of round robin. It outlives HostSets, so that an
// endpoint update does not begin again with the first host. The zero Cursor
// begins at the first host.
type Cursor struct{ n atomic.Uint64 }

// Member is one host of a HostSet with what the assignment says of it.
type Member struct {
	Host   *Host
	Weight uint32 // 0 counts as 1
	Health Health
}

// Group is the members of one locality.
type Group struct {
	Priority uint32
	// Weight of the locality; only with Policy.LocalityWeighted.
	Weight  uint32
	Members []Member
}

// Policy is what a Spec and an Assignment say about balancing.
type Policy struct {
	Balancer Balancer
	// LeastChoices of LeastRequest; 0: 2.
	LeastChoices uint32
	// PanicThreshold in percent: below it, health is ignored; 0: never.
	PanicThreshold uint32
	// Overprovisioning in percent; 0: 140.
	Overprovisioning uint32
	LocalityWeighted bool
}

// PolicyOf reads the policy of a cluster and its assignment.
func PolicyOf(s *Spec, a *Assignment) Policy {
	p := Policy{Balancer: s.Balancer, LeastChoices: s.LeastChoices, PanicThreshold: s.PanicThreshold, LocalityWeighted: s.LocalityWeighted}
	if a != nil {
		p.Overprovisioning = a.OverprovisioningFactor
	}
	return p
}

// HostSet is the hosts of a cluster, ready for picking: priorities, panic and
// weights are resolved when it is built. It is immutable.
type HostSet struct {
	policy Policy
	// pools with their share of the traffic; shares add up to shareTotal.
	pools  []pool
	shares []uint32
	// members is every member, healthy or not.
	members []Member
}

// pool is the eligible hosts of a priority, in one group or one for each
// locality.
type pool struct {
	groups []group
	total  uint64 // of the groups' weights
}

type group struct {
	weight uint64
	hosts  []Member
	// order is the schedule of weighted round robin, by index into hosts; nil
	// when all weights are equal.
	order []uint32
}

// shareTotal is the sum of the pools' shares, in percent as Envoy counts.
const shareTotal = 100

// NewHostSet resolves who gets traffic now, by Envoy's rules for priorities,
// overprovisioning, degraded hosts and panic ("Load balancing: priority
// levels", "panic threshold", "locality weighted").
func NewHostSet(groups []Group, policy Policy) *HostSet {
	if policy.Overprovisioning == 0 {
		policy.Overprovisioning = 140
	}
	if policy.LeastChoices == 0 {
		policy.LeastChoices = 2
	}
	s := &HostSet{policy: policy}
	for _, g := range groups {
		s.members = append(s.members, g.Members...)
	}
	levels := newLevels(groups)
	spread(levels, policy)
	for _, l := range levels {
		switch {
		case l.panics:
			s.add(l, l.load+l.degradedLoad, func(Health) bool { return true })
		default:
			s.add(l, l.load, func(h Health) bool { return h == Healthy })
			s.add(l, l.degradedLoad, func(h Health) bool { return h == Degraded })
		}
	}
	return s
}

// add makes a pool of the level's members with an eligible health.
func (s *HostSet) add(l *level, share uint32, eligible func(Health) bool) {
	if share == 0 {
		return
	}
	var p pool
	var flat []Member
	for _, g := range l.groups {
		var in []Member
		for _, m := range g.Members {
			if eligible(m.Health) {
				in = append(in, m)
			}
		}
		if !s.policy.LocalityWeighted {
			flat = append(flat, in...)
			continue
		}
		// A locality that lost hosts gets less, as a priority does.
		available := min(shareTotal, uint64(s.policy.Overprovisioning)*uint64(len(in))/uint64(max(len(g.Members), 1)))
		if w := uint64(g.Weight) * available; w > 0 && len(in) > 0 {
			p.groups = append(p.groups, newGroup(in, w))
			p.total += w
		}
	}
	if len(flat) > 0 {
		p.groups, p.total = []group{newGroup(flat, 1)}, 1
	}
	if len(p.groups) == 0 {
		return
	}
	s.pools = append(s.pools, p)
	s.shares = append(s.shares, share)
}

// Members are all hosts of the set, eligible or not; read-only.
func (s *HostSet) Members() []Member { return s.members }

// Empty reports whether no host is eligible: no healthy upstream.
func (s *HostSet) Empty() bool { return len(s.pools) == 0 }

// Pick chooses a host, or nil when none is eligible. random must be fresh for
// each call; equal inputs give equal hosts. It allocates nothing.
func (s *HostSet) Pick(c *Cursor, random uint64) *Host {
	p := s.pool(random)
	if p == nil {
		return nil
	}
	random = next(random)
	g := p.group(random)
	random = next(random)
	switch s.policy.Balancer {
	case LeastRequest:
		return g.leastRequest(s.policy.LeastChoices, random)
	case Random:
		return g.at(random).Host
	case RoundRobin, ClusterProvided:
	}
	return g.at(c.n.Add(1) - 1).Host
}

// PickOther is Pick for a repetition: of the eligible hosts one that was not
// tried, if there is one.
func (s *HostSet) PickOther(c *Cursor, random uint64, tried func(*Host) bool) *Host {
	drawn := s.Pick(c, random)
	if drawn == nil || !tried(drawn) {
		return drawn
	}
	for i := range s.pools {
		for _, g := range s.pools[i].groups {
			left := slices.DeleteFunc(slices.Clone(g.hosts), func(m Member) bool { return tried(m.Host) })
			if n := uint64(len(left)); n > 0 {
				return left[next(random)%n].Host
			}
		}
	}
	return drawn
}

func (s *HostSet) pool(random uint64) *pool {
	switch len(s.pools) {
	case 0:
		return nil
	case 1:
		return &s.pools[0]
	}
	var total uint32
	for _, share := range s.shares {
		total += share
	}
	at := uint32(random % uint64(total))
	for i, share := range s.shares {
		if at < share {
			return &s.pools[i]
		}
		at -= share
	}
	return &s.pools[0]
}

func (p *pool) group(random uint64) *group {
	if len(p.groups) == 1 {
		return &p.groups[0]
	}
	at := random % p.total
	for i := range p.groups {
		if at < p.groups[i].weight {
			return &p.groups[i]
		}
		at -= p.groups[i].weight
	}
	return &p.groups[0]
}

// at is the host at a place of the schedule, which repeats for ever.
func (g *group) at(place uint64) *Member {
	if g.order == nil {
		return &g.hosts[place%uint64(len(g.hosts))]
	}
	return &g.hosts[g.order[place%uint64(len(g.order))]]
}

// leastRequest draws hosts by weight and takes the one with the fewest requests
// in flight for its weight (power of two choices).
func (g *group) leastRequest(choices uint32, random uint64) *Host {
	best := g.at(random)
	for range choices - 1 {
		random = next(random)
		other := g.at(random)
		if (other.Host.Active.Load()+1)*int64(best.weight()) < (best.Host.Active.Load()+1)*int64(other.weight()) {
			best = other
		}
	}
	return best.Host
}

func (m *Member) weight() uint32 { return max(m.Weight, 1) }

// next is one step of SplitMix64, so that one random number serves several
// independent draws.
func next(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
