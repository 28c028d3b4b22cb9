package xdsclient

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tullemesh/tulle/internal/wire"
)

// Wildcard as a name subscribes to all resources of a type.
const Wildcard = "*"

// typeState is one type's subscription and its accepted resources.
type typeState struct {
	want     map[string]struct{}
	accepted map[string]*wire.Resource
	aliases  map[string]string // wanted name → name of the resource (VHDS)
	version  string            // state of the world: version_info of the last accepted response
	rejected []wire.Rejection
	updated  time.Time
	unsaved  bool
}

// sendingOrder is the order in which types are asked for and restored, so that
// what is referred to comes before who refers.
func sendingOrder() []string {
	return []string{
		wire.ClusterType, wire.EndpointType, wire.SecretType, wire.ExtensionType, wire.FilterChainType,
		wire.ListenerType, wire.RouteType, wire.VirtualHostType, wire.NameTableType,
	}
}

func (c *Client) typesLocked() []string {
	order := sendingOrder()
	rank := func(t string) int {
		if i := slices.Index(order, t); i >= 0 {
			return i
		}
		return len(order)
	}
	out := slices.Sorted(maps.Keys(c.types))
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	return out
}

func (c *Client) typeLocked(typeURL string) *typeState {
	ts := c.types[typeURL]
	if ts == nil {
		ts = &typeState{want: map[string]struct{}{}, accepted: map[string]*wire.Resource{}, aliases: map[string]string{}}
		c.types[typeURL] = ts
	}
	return ts
}

// Want makes names the whole set of names that are subscribed of the type.
func (c *Client) Want(typeURL string, names []string) {
	c.mu.Lock()
	ts := c.typeLocked(typeURL)
	clear(ts.want)
	for _, n := range names {
		ts.want[n] = struct{}{}
	}
	ts.forgetUnwanted()
	c.mu.Unlock()
	c.poke()
}

// Subscribe adds names to what is subscribed of the type; Wildcard is all. For
// virtual hosts the name of a route configuration stands for all of its hosts.
func (c *Client) Subscribe(typeURL string, names ...string) {
	c.mu.Lock()
	ts := c.typeLocked(typeURL)
	for _, n := range names {
		ts.want[n] = struct{}{}
	}
	c.mu.Unlock()
	c.poke()
}

func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wanted reports whether a resource's name is subscribed, by itself or by what
// stands for it.
func (ts *typeState) wanted(name string) bool {
	if _, ok := ts.want[name]; ok {
		return true
	}
	if _, ok := ts.want[Wildcard]; ok {
		return true
	}
	owner, _, ok := strings.Cut(name, "/")
	if !ok {
		return false
	}
	_, ok = ts.want[owner]
	return ok
}

// wantsAlias reports whether the resource answers to a subscribed alias.
func (ts *typeState) wantsAlias(name string, aliases map[string]string) bool {
	for alias, n := range aliases {
		if _, ok := ts.want[alias]; ok && n == name {
			return true
		}
	}
	return false
}

func (ts *typeState) forgetUnwanted() {
	aliased := map[string]bool{}
	for alias, n := range ts.aliases {
		if _, ok := ts.want[alias]; ok {
			aliased[n] = true
		} else {
			delete(ts.aliases, alias)
		}
	}
	for n := range ts.accepted {
		if !ts.wanted(n) && !aliased[n] {
			delete(ts.accepted, n)
			ts.unsaved = true
		}
	}
}

// settle takes the handler's answer to an update into the store.
func (ts *typeState) settle(u Update, refused []wire.Rejection, now time.Time) {
	ts.rejected, ts.updated = refused, now
	if slices.ContainsFunc(refused, func(r wire.Rejection) bool { return r.Name == "" }) {
		return
	}
	bad := make(map[string]bool, len(refused))
	for _, r := range refused {
		bad[r.Name] = true
	}
	for _, r := range u.Added {
		if !bad[r.Name] {
			ts.accepted[r.Name] = r
			ts.unsaved = true
		}
	}
	maps.Copy(ts.aliases, u.Aliases)
	for _, n := range u.Removed {
		if _, ok := ts.accepted[n]; ok && !bad[n] {
			delete(ts.accepted, n)
			ts.unsaved = true
		}
	}
}
