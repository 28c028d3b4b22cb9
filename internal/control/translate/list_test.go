package translate_test

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// TestNamespacesShareWhatIsEqual: proxies of two namespaces have one list of
// names, and one virtual host for each service of neither.
func TestNamespacesShareWhatIsEqual(t *testing.T) {
	s := snapshotOf(t, "", large(40, 1, 4))
	tr := translate.New(s, nil)
	vhds := func(i int) *view.View {
		return viewOf(t, s, strings.Replace(largeNode(i, 4), `"metadata"`, `"client_features": ["tulle.vhds"], "metadata"`, 1), "")
	}
	a, b := vhds(0), vhds(1)
	for _, u := range []string{wire.ClusterType, wire.EndpointType, wire.VirtualHostType} {
		names, x := tr.List(a, u)
		others, y := tr.List(b, u)
		if len(names) < 40 || &names[0] != &others[0] {
			t.Fatalf("%s: %d and %d names that are not one list", u, len(names), len(others))
		}
		shared := 0
		for i := range x {
			if x[i] != nil && x[i] == y[i] {
				shared++
			}
		}
		want := 40
		if u == wire.VirtualHostType {
			want = 20 + 1 // those of the other two namespaces, and allow_any
		}
		if shared < want {
			t.Errorf("%s: %d of %d resources are one, want %d", u, shared, len(x), want)
		}
	}
}

// TestAListLeavesOutWhatIsOfOneWorkload: inbound resources are asked for one
// by one, so that the list is that of all workloads.
func TestAListLeavesOutWhatIsOfOneWorkload(t *testing.T) {
	s := snapshotOf(t, "", large(4, 1, 1))
	tr := translate.New(s, nil)
	a, b := viewOf(t, s, largeNode(0, 1), ""), viewOf(t, s, largeNode(1, 1), "")
	names, x := tr.List(a, wire.ListenerType)
	_, y := tr.List(b, wire.ListenerType)
	if &x[0] != &y[0] {
		t.Error("two workloads of a namespace have two lists of listeners")
	}
	for i, n := range names {
		if inbound := n == wire.VirtualInbound; (x[i] == nil) != inbound {
			t.Errorf("%s: listed is %v", n, x[i] != nil)
		}
		r, err := tr.Build(a, wire.ListenerType, n)
		if err != nil || r == nil {
			t.Errorf("%s: %v, %v", n, r, err)
		}
	}
}

// TestARuleEditKeepsTheLists: an edit of a route in its place says which
// virtual hosts may differ, and all names stay the same lists.
func TestARuleEditKeepsTheLists(t *testing.T) {
	w := newWorld(t, "")
	w.edit("mesh", large(40, 1, 4))
	edit := func(timeout string) {
		w.edit("vs", rules("vs", "ns3", "hosts: [svc3], http: [{route: [{destination: {host: svc3}}], timeout: "+timeout+"}]"))
	}
	edit("1s")
	s := w.snapshot()
	tr := translate.New(s, nil)
	node := strings.Replace(largeNode(0, 4), `"metadata"`, `"client_features": ["tulle.vhds"], "metadata"`, 1)
	v := viewOf(t, s, node, "")
	before := collectFor(t, v, tr, nil)
	names := tr.Names(v, wire.VirtualHostType)
	edit("2s")
	next := w.snapshot()
	tr2 := translate.New(next, tr)
	_, dirty := tr2.Dirty(s)
	v2, err := tr2.View(nodeOf(t, node), "", v)
	if err != nil {
		t.Fatal(err)
	}
	if after := tr2.Names(v2, wire.VirtualHostType); &after[0] != &names[0] {
		t.Error("the names are another list")
	}
	if n := len(dirty[wire.VirtualHostType]); n == 0 || n > 10 {
		t.Errorf("%d virtual hosts may differ", n)
	}
	after := collectFor(t, v2, tr2, nil)
	var changed []string
	for n, version := range before.versions[wire.VirtualHostType] {
		if after.versions[wire.VirtualHostType][n] != version {
			changed = append(changed, n)
		}
	}
	if len(changed) != 1 || changed[0] != "80/svc3.ns3.svc.cluster.local:80" {
		t.Errorf("%q changed", changed)
	}
}
