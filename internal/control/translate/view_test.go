package translate_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

const workloads = `
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: web-0, namespace: shop}, spec: {address: 10.1.0.1, labels: {app: web}, serviceAccount: web}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: shop}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}}
`

func TestAnAuthenticatedNodeIsHeldToItsCertificateAndRecord(t *testing.T) {
	s := snapshotOf(t, "", workloads)
	node := `{"id": "sidecar~10.1.0.1~web-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "LABELS": {"istio": "ingressgateway"}}}`
	unknown := strings.ReplaceAll(strings.ReplaceAll(node, "web-0", "web-9"), "10.1.0.1", "10.1.0.9")
	for _, c := range []struct{ situation, node, peer, refusal string }{
		{"right certificate", node, "spiffe://cluster.local/ns/shop/sa/web", ""},
		{"certificate of another namespace", node, "spiffe://cluster.local/ns/other/sa/web", "claims namespace"},
		{"certificate of another service account", node, "spiffe://cluster.local/ns/shop/sa/payment", "service account"},
		{"no record of the workload", unknown, "spiffe://cluster.local/ns/shop/sa/web", "no workload"},
		{"no SPIFFE identity", node, "https://example.com", "view refused"},
		{"plaintext, no record", unknown, "", ""},
	} {
		_, err := view.New(s, nodeOf(t, c.node), c.peer)
		switch {
		case c.refusal == "" && err != nil:
			t.Errorf("%s: %v", c.situation, err)
		case c.refusal != "" && (!errors.Is(err, view.ErrRefused) || !strings.Contains(err.Error(), c.refusal)):
			t.Errorf("%s: %v, want %q", c.situation, err, c.refusal)
		}
	}
}

func TestLabelsOfAnAuthenticatedNodeAreThoseOfItsRecord(t *testing.T) {
	s := snapshotOf(t, "", workloads)
	tr := translate.New(s, nil)
	node := `{"id": "router~10.1.0.1~web-0.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop", "LABELS": {"istio": "ingressgateway"}}}`
	if names := tr.Names(viewOf(t, s, node, "spiffe://cluster.local/ns/shop/sa/web"), wire.ListenerType); len(names) != 0 {
		t.Errorf("a workload that claims the gateway's label got %v", names)
	}
	if names := tr.Names(viewOf(t, s, node, ""), wire.ListenerType); len(names) != 1 {
		t.Errorf("a plaintext client that claims the gateway's label got %v", names)
	}
}

func TestViewKeysTellProxiesApart(t *testing.T) {
	s := snapshotOf(t, "", wholeMesh(0))
	seen := make(map[string]string)
	for name, node := range nodes {
		v := viewOf(t, s, node, "")
		if other := seen[v.Key()]; other != "" {
			t.Errorf("%s and %s have one key", name, other)
		}
		seen[v.Key()] = name
		if again := viewOf(t, s, node, ""); again.Key() != v.Key() {
			t.Errorf("%s: the key is not stable", name)
		}
	}
}

// field returns the values of a length-delimited field of a message.
func field(t *testing.T, b []byte, want protowire.Number) (out []string) {
	t.Helper()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			t.Fatalf("bad tag %d %d", num, typ)
		}
		b = b[n:]
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			t.Fatal("bad value")
		}
		b = b[n:]
		if num == want {
			out = append(out, string(v))
		}
	}
	return out
}

func TestNameTableOfARecordedIstiod(t *testing.T) {
	dir := istioData(t)
	s := snapshotOf(t, readFile(t, dir, "s1-plain", "meshconfig.yaml"), supportedOnly(t, readFile(t, dir, "s1-plain", "input.yaml")))
	rec := readRecording(t, "s1-plain", "sidecar")
	want := tree(t, rec.resources[wire.NameTableType][""]).(map[string]any)["table"].(map[string]any)
	tr := translate.New(s, nil)
	v := viewOf(t, s, rec.node, "")
	names := tr.Names(v, wire.NameTableType)
	if len(names) != 1 {
		t.Fatalf("names %v", names)
	}
	r, err := tr.Build(v, wire.NameTableType, names[0])
	if err != nil {
		t.Fatal(err)
	}
	entries := field(t, r.Body.GetValue(), 1)
	if len(entries) != len(want) {
		t.Errorf("%d hosts, istiod has %d", len(entries), len(want))
	}
	for _, e := range entries {
		host := field(t, []byte(e), 1)[0]
		info := []byte(field(t, []byte(e), 2)[0])
		w, _ := want[host].(map[string]any)
		for number, key := range map[protowire.Number]string{2: "registry", 3: "shortname", 4: "namespace"} {
			have := strings.Join(field(t, info, number), ",")
			if wanted, _ := w[key].(string); have != wanted {
				t.Errorf("%s: %s is %q, want %q", host, key, have, wanted)
			}
		}
		var ips []string
		list, _ := w["ips"].([]any)
		for _, ip := range list {
			ips = append(ips, ip.(string))
		}
		if have := field(t, info, 1); strings.Join(have, ",") != strings.Join(ips, ",") {
			t.Errorf("%s: addresses %v, want %v", host, have, ips)
		}
	}
}

// TestRecordedEditsTouchWhatIstiodSent applies the two recorded edits: what
// differs afterwards is dirty, is no more than istiod sent again, and equals it
// in the weights and endpoints that were edited.
func TestRecordedEditsTouchWhatIstiodSent(t *testing.T) {
	dir := istioData(t)
	w := newWorld(t, readFile(t, dir, "s2-routing", "meshconfig.yaml"))
	w.quiet = true
	input := supportedOnly(t, readFile(t, dir, "s2-routing", "input.yaml"))
	w.edit("input", input)
	rec := readRecording(t, "s2-routing", "sidecar")
	s := w.snapshot()
	tr := translate.New(s, nil)
	before := collect(t, s, tr, rec.node, nil)
	for _, c := range []struct {
		edit string
		want map[string][]string // by type: the names that differ
	}{
		{"edit-1-virtualservice.yaml", map[string][]string{wire.RouteType: {"80", "9080"}}},
		{"edit-2-endpoint.yaml", map[string][]string{wire.EndpointType: {
			"outbound|9080|v1|reviews.bookinfo.svc.cluster.local", "outbound|9080|v3|reviews.bookinfo.svc.cluster.local",
			"outbound|9080||reviews.bookinfo.svc.cluster.local",
		}}},
	} {
		input = replaceObjects(t, input, supportedOnly(t, readFile(t, dir, "s2-routing", c.edit)))
		w.edit("input", input)
		s := w.snapshot()
		next := translate.New(s, tr)
		all, dirty := next.Dirty(tr.Snapshot())
		if all {
			t.Fatalf("%s: everything is dirty", c.edit)
		}
		now := collect(t, s, next, rec.node, nil)
		for _, u := range allTypes {
			var differ []string
			for _, n := range sorted(now.versions[u]) {
				if now.versions[u][n] != before.versions[u][n] {
					differ = append(differ, n)
					if !dirtyHas(dirty, u, n) {
						t.Errorf("%s: %s %q differs and is not dirty", c.edit, u, n)
					}
				}
			}
			if strings.Join(differ, " ") != strings.Join(c.want[u], " ") {
				t.Errorf("%s: %s differ in %v, want %v", c.edit, u, differ, c.want[u])
			}
		}
		tr, before = next, now
	}
}
