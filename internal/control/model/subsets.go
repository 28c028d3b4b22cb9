package model

import (
	"maps"
	"slices"
)

// Subsets lists the names of all subsets that destination rules define for a
// host, whichever clients see them. Sorted.
func (s *Snapshot) Subsets(host string) []string {
	names := map[string]struct{}{}
	collect := func(t *destinationTable) {
		for _, d := range t.find(host) {
			for _, sub := range d.Subsets {
				names[sub.Name] = struct{}{}
			}
		}
	}
	for _, tables := range []map[string]*destinationTable{s.dests.local, s.dests.exported} {
		for _, t := range tables {
			collect(t)
		}
	}
	collect(s.dests.private)
	return slices.Sorted(maps.Keys(names))
}

// SelectsClients reports whether any destination rule applies to some clients
// of a namespace only (workloadSelector).
func (s *Snapshot) SelectsClients() bool {
	for _, t := range s.dests.local {
		for _, list := range t.exact {
			if slices.ContainsFunc(list, hasSelector) {
				return true
			}
		}
		for _, list := range t.wild {
			if slices.ContainsFunc(list, hasSelector) {
				return true
			}
		}
	}
	return false
}

func hasSelector(d *DestinationRule) bool { return d.Selector != nil }
