package cluster

import (
	"cmp"
	"slices"
)

// scheduleMax bounds the length of a schedule. Weights whose sum is above it,
// after division by their common divisor, are scaled down; each host keeps at
// least one place.
const scheduleMax = 4096

func newGroup(hosts []Member, weight uint64) group {
	return group{weight: weight, hosts: hosts, order: schedule(hosts)}
}

// schedule is a smooth weighted round robin: every host has as many places as
// its weight says, spread evenly over the whole (earliest deadline first). Each
// begins at another phase, so that light hosts don't come all at once. It is nil
// when all weights are equal.
func schedule(hosts []Member) []uint32 {
	weights := scaled(hosts)
	if weights == nil {
		return nil
	}
	type place struct {
		deadline float64
		host     uint32
	}
	var places []place
	for i, w := range weights {
		phase := (float64(i) + 0.5) / float64(len(weights))
		for j := range w {
			places = append(places, place{(float64(j) + phase) / float64(w), uint32(i)})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.deadline, b.deadline) })
	order := make([]uint32, len(places))
	for i, p := range places {
		order[i] = p.host
	}
	return order
}

// scaled are small weights in the same proportion, or nil when all are equal.
func scaled(hosts []Member) []uint64 {
	weights := make([]uint64, len(hosts))
	var divisor, sum uint64
	equal := true
	for i := range hosts {
		w := uint64(hosts[i].weight())
		weights[i] = w
		divisor = gcd(w, divisor)
		equal = equal && w == weights[0]
	}
	if equal {
		return nil
	}
	for i := range weights {
		weights[i] /= divisor
		sum += weights[i]
	}
	if limit := uint64(max(scheduleMax, len(hosts))); sum > limit {
		for i := range weights {
			weights[i] = max(1, weights[i]*limit/sum)
		}
	}
	return weights
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
