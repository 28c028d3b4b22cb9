package cluster

import (
	"cmp"
	"slices"
)

// level is one priority while a HostSet is built.
type level struct {
	priority                 uint32
	groups                   []Group
	total, healthy, degraded int
	panics                   bool
	// load and degradedLoad are the percent of traffic that healthy and
	// degraded hosts get.
	load, degradedLoad uint32
}

func newLevels(groups []Group) []*level {
	var levels []*level
	for _, g := range groups {
		i := slices.IndexFunc(levels, func(l *level) bool { return l.priority == g.Priority })
		if i < 0 {
			i = len(levels)
			levels = append(levels, &level{priority: g.Priority})
		}
		l := levels[i]
		l.groups = append(l.groups, g)
		for _, m := range g.Members {
			l.total++
			switch m.Health {
			case Healthy:
				l.healthy++
			case Degraded:
				l.degraded++
			case Unhealthy, Draining:
			}
		}
	}
	slices.SortFunc(levels, func(a, b *level) int { return cmp.Compare(a.priority, b.priority) })
	return levels
}

func (l *level) available(hosts int, overprovisioning uint32) uint32 {
	if l.total == 0 {
		return 0
	}
	return uint32(min(shareTotal, uint64(overprovisioning)*uint64(hosts)/uint64(l.total)))
}

// spread gives each level its share (Envoy: LoadBalancerBase).
func spread(levels []*level, policy Policy) {
	sum := uint32(0)
	for _, l := range levels {
		sum += l.available(l.healthy, policy.Overprovisioning) + l.available(l.degraded, policy.Overprovisioning)
	}
	sum = min(sum, shareTotal)
	panicAll := len(levels) > 0
	for _, l := range levels {
		l.panics = sum < shareTotal && l.inPanic(policy.PanicThreshold)
		panicAll = panicAll && l.panics
	}
	switch {
	case panicAll:
		spreadPanic(levels)
	case sum > 0:
		spreadHealthy(levels, policy.Overprovisioning, sum)
	}
}

func (l *level) inPanic(threshold uint32) bool {
	if l.total == 0 {
		return threshold > 0
	}
	return uint64(shareTotal)*uint64(l.healthy+l.degraded)/uint64(l.total) < uint64(threshold)
}

// spreadPanic shares by the number of hosts, whatever their health.
func spreadPanic(levels []*level) {
	total := 0
	for _, l := range levels {
		total += l.total
	}
	if total == 0 {
		return
	}
	left := uint32(shareTotal)
	for _, l := range levels {
		l.load = uint32(shareTotal * l.total / total)
		left -= l.load
	}
	for _, l := range levels {
		if l.total > 0 {
			l.load += left
			return
		}
	}
}

// spreadHealthy fills the levels in order: first with healthy hosts, then with
// degraded ones. What rounding leaves over goes to the first that has any.
func spreadHealthy(levels []*level, overprovisioning, sum uint32) {
	left := uint32(shareTotal)
	for _, l := range levels {
		l.load = min(left, l.available(l.healthy, overprovisioning)*shareTotal/sum)
		left -= l.load
	}
	for _, l := range levels {
		l.degradedLoad = min(left, l.available(l.degraded, overprovisioning)*shareTotal/sum)
		left -= l.degradedLoad
	}
	for _, l := range levels {
		switch {
		case l.load > 0:
			l.load += left
			return
		case l.degradedLoad > 0:
			l.degradedLoad += left
			return
		}
	}
}
