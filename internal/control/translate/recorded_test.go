package translate_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/wire"
)

// unsupported are the fields of the recorded inputs that tulle refuses for
// now; the comparison leaves them out of the input, and what they make out of
// the recording. A path ends where the field is deleted; [] is every element.
var unsupported = map[string][]string{
	"VirtualService": {
		"spec.http[].retries.retryRemoteLocalities", "spec.http[].fault", "spec.http[].mirror", "spec.http[].mirrorPercentage", "spec.http[].mirrors",
		"spec.http[].corsPolicy",
	},
	"DestinationRule": {
		"spec.trafficPolicy.outlierDetection",
		"spec.trafficPolicy.loadBalancer.localityLbSetting", "spec.trafficPolicy.loadBalancer.warmup",
		"spec.trafficPolicy.loadBalancer.consistentHash",
		"spec.trafficPolicy.portLevelSettings[].loadBalancer.consistentHash",
	},
	"Sidecar": {"spec.ingress"},
}

// unsupportedObjects are left out as a whole: DYNAMIC_DNS, TLS mode SIMPLE.
var unsupportedObjects = []string{"ServiceEntry/dynamic-dns", "DestinationRule/external"}

// exceptions are the places that differ on purpose, or because of what
// unsupported fields made; each with the reason.
var exceptions = []struct{ place, reason string }{
	{`^s[25]-.*\.(hash_policy|request_mirror_policies|typed_per_filter_config)(\.|\[|$)`, "consistentHash, mirrors, fault and corsPolicy"},
	{`^s2-.*\.routes\[\d+\]\.route\.retry_policy\.retry_priority$`, "retryRemoteLocalities"},
	{`^s2-.*\.routes\[\d+\]\.route\.retry_policy\.retry_host_predicate$`, "consistentHash: Istio lets a retry come to the hash's host again"},
	{`^s[25]-.* Cluster .*\.(outlier_detection|(least_request|ring_hash|maglev)_lb_config)(\.|\[|$)`, "outlierDetection and consistentHash"},
	{`^s5-tcp/sidecar (Cluster inbound\|9080|Listener virtualInbound\.filter_chains\[[67]\])`, "Sidecar ingress"},
	{`api\.example\.com\.(transport_socket|typed_extension_protocol_options|metadata\.filter_metadata\.istio\.(config|alpn_override))$`, "DestinationRule external: TLS mode SIMPLE, h2UpgradePolicy"},
	{` Listener .*\.typed_config\.http2_protocol_options$`, "WebSockets over HTTP/2, which Istio leaves out"},
	{` Cluster .*\.use_downstream_protocol_config\.http2_protocol_options\.max_concurrent_streams$`, "Istio forgets maxConcurrentStreams where clients choose the protocol"},
	{` Cluster outbound\|9080\|.*\|reviews\..*\.common_lb_config`, "outlierDetection of reviews"},
	{` Cluster outbound\|9080\|.*\|ratings\..*\.common_lb_config`, "outlierDetection of ratings"},
	{`\.lb_policy$`, "consistentHash"},
	{` ClusterLoadAssignment .*\.priority$`, "Istio ranks localities under outlierDetection only, which is unsupported"},
	{` ClusterLoadAssignment outbound\|5432\|\|db\.example\.com`, "Istio makes one service for each address and sends its endpoints once for each"},
}

func excepted(place string) bool {
	for _, e := range exceptions {
		if regexp.MustCompile(e.place).MatchString(place) {
			return true
		}
	}
	return false
}

// allocated hides which address of 240.240.0.0/16 a host without one got:
// Istio counts, tulle hashes the host.
func allocated(text string) string { return autoAddress.ReplaceAllString(text, "240.240.x.y") }

var autoAddress = regexp.MustCompile(`240\.240\.\d+\.\d+`)

func supportedOnly(t *testing.T, input string) string {
	t.Helper()
	// Istio's webhook, which the recorded server did not ask, refuses these.
	input = strings.ReplaceAll(input, "    timeout: 0s\n", "")
	input = strings.ReplaceAll(input, "sniHosts: [a.echo.example.com, ", "sniHosts: [")
	var out strings.Builder
	d := yaml.NewDecoder(strings.NewReader(input))
	for {
		var doc map[string]any
		if err := d.Decode(&doc); err != nil {
			return out.String()
		}
		kind, _ := doc["kind"].(string)
		name, _ := doc["metadata"].(map[string]any)["name"].(string)
		if slices.Contains(unsupportedObjects, kind+"/"+name) {
			continue
		}
		for _, path := range unsupported[kind] {
			cut(doc, strings.Split(path, "."))
		}
		locate(doc)
		text, err := yaml.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(text)
	}
}

// locate says on Pods what the recorded control plane read off Nodes.
func locate(doc map[string]any) {
	if doc["kind"] != "Pod" {
		return
	}
	node, _ := doc["spec"].(map[string]any)["nodeName"].(string)
	place := map[string]string{"node-1": "region1.zone1", "node-2": "region1.zone2", "node-3": "region2.zone3"}[node]
	doc["metadata"].(map[string]any)["labels"].(map[string]any)["istio-locality"] = place
}

func cut(node any, path []string) {
	key, each := strings.CutSuffix(path[0], "[]")
	m, ok := node.(map[string]any)
	if !ok {
		return
	}
	if len(path) == 1 {
		delete(m, key)
		return
	}
	if !each {
		cut(m[key], path[1:])
		return
	}
	list, _ := m[key].([]any)
	for _, e := range list {
		cut(e, path[1:])
	}
}

// explained takes out of a recorded or built resource what differs on purpose.
func explained(node any) any {
	switch n := node.(type) {
	case map[string]any:
		for _, key := range []string{
			// Tracing settings: literals for each workload, and no tracing yet.
			"tracing",
			// c-ares by name: its settings are stock Envoy's, and our proxy resolves by itself.
			"typed_dns_resolver_config",
		} {
			delete(n, key)
		}
		// tulle's own origins have no counterpart.
		if fm, ok := n["filter_metadata"].(map[string]any); ok {
			delete(fm, "tulle")
		}
		// Istio leaves the health of ServiceEntry endpoints out: unknown is
		// treated as healthy.
		if n["health_status"] == "HEALTHY" {
			delete(n, "health_status")
		}
		if list, ok := n["alpn_protocols"].([]any); ok {
			// Nobody behind istio-peer-exchange would answer.
			n["alpn_protocols"] = slices.DeleteFunc(list, func(a any) bool { return a == "istio-peer-exchange" })
		}
		if list, ok := n["server_names"].([]any); ok {
			n["server_names"] = slices.DeleteFunc(list, func(a any) bool { return a == "a.echo.example.com" })
		}
		if list, ok := n["virtual_hosts"].([]any); ok {
			n["virtual_hosts"] = slices.DeleteFunc(list, func(a any) bool { return a.(map[string]any)["name"] == "*.dyn.example.com:80" })
		}
		// Filters that stock Envoy lacks, or that only observe.
		for _, key := range []string{"http_filters", "filters"} {
			list, ok := n[key].([]any)
			if !ok {
				continue
			}
			list = slices.DeleteFunc(list, func(f any) bool {
				name, _ := f.(map[string]any)["name"].(string)
				return strings.HasPrefix(name, "istio.") || name == "envoy.filters.network.mongo_proxy" ||
					name == "envoy.filters.http.dynamic_forward_proxy"
			})
			n[key] = list
			if len(list) == 0 {
				delete(n, key)
			}
		}
		for k, v := range n {
			n[k] = explained(v)
		}
	case []any:
		for i := range n {
			n[i] = explained(n[i])
		}
	}
	return node
}

// compare reports the paths at which two trees differ.
func compare(path string, want, have any, report func(path string, want, have any)) {
	if reflect.DeepEqual(want, have) {
		return
	}
	wm, wok := want.(map[string]any)
	hm, hok := have.(map[string]any)
	if wok && hok {
		keys := make(map[string]bool)
		for k := range wm {
			keys[k] = true
		}
		for k := range hm {
			keys[k] = true
		}
		for _, k := range sorted(keys) {
			compare(path+"."+k, wm[k], hm[k], report)
		}
		return
	}
	wl, wok := want.([]any)
	hl, hok := have.([]any)
	if wok && hok && len(wl) == len(hl) {
		for i := range wl {
			compare(fmt.Sprintf("%s[%d]", path, i), wl[i], hl[i], report)
		}
		return
	}
	report(path, want, have)
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func tree(t *testing.T, data []byte) any {
	t.Helper()
	var out any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestResourcesEqualThoseOfARecordedIstiod(t *testing.T) {
	dir := istioData(t)
	for _, c := range []struct{ scenario, client string }{
		{"s1-plain", "sidecar"}, {"s1-plain", "sidecar2"}, {"s1-plain", "gateway"},
		{"s2-routing", "sidecar"}, {"s2-routing", "sidecar2"}, {"s2-routing", "gateway"},
		{"s5-tcp", "sidecar"}, {"s5-tcp", "sidecar2"}, {"s5-tcp", "gateway"},
		{"s1-plain", "grpc"}, {"s2-routing", "grpc"}, {"s5-tcp", "grpc"},
	} {
		t.Run(c.scenario+"/"+c.client, func(t *testing.T) {
			s := snapshotOf(t, readFile(t, dir, c.scenario, "meshconfig.yaml"), supportedOnly(t, readFile(t, dir, c.scenario, "input.yaml")))
			tr := translate.New(s, nil)
			rec := readRecording(t, c.scenario, c.client)
			v := viewOf(t, s, rec.node, "")
			for _, u := range []string{wire.ClusterType, wire.ListenerType, wire.RouteType, wire.EndpointType} {
				names := tr.Names(v, u)
				if c.client == "grpc" {
					names = sorted(rec.resources[u]) // gRPC asks by name
				}
				have, want := make(map[string]string), make(map[string]json.RawMessage)
				for n, r := range rec.resources[u] {
					if !strings.HasSuffix(n, ".dyn.example.com") && n != "240.240.0.1_443" {
						want[allocated(n)] = r
					}
				}
				for _, n := range names {
					have[allocated(n)] = n
					if _, ok := want[allocated(n)]; !ok {
						t.Errorf("%s %q: istiod has none", u, n)
					}
				}
				for _, n := range sorted(want) {
					own, ok := have[n]
					if !ok {
						t.Errorf("%s %q: missing", u, n)
						continue
					}
					b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(build(t, tr, v, u, own))
					if err != nil {
						t.Fatal(err)
					}
					b = []byte(allocated(string(b)))
					want := tree(t, []byte(allocated(string(want[n])))).(map[string]any)
					delete(want, "@type")
					compare(c.scenario+"/"+c.client+" "+u[strings.LastIndex(u, ".")+1:]+" "+n, explained(want), explained(tree(t, b)), func(path string, want, have any) {
						if excepted(path) {
							return
						}
						w, _ := json.Marshal(want)
						h, _ := json.Marshal(have)
						t.Errorf("%s\n  istiod %s\n  tulle  %s", path, w, h)
					})
				}
			}
		})
	}
}

// replaceObjects puts the objects of an edit in the place of those of the same
// kind and name, and new ones behind.
func replaceObjects(t *testing.T, input, edit string) string {
	t.Helper()
	key := func(doc string) string {
		var o struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		return o.Kind + "/" + o.Metadata.Namespace + "/" + o.Metadata.Name
	}
	edits := make(map[string]string)
	for _, doc := range strings.Split(edit, "---\n")[1:] {
		edits[key(doc)] = doc
	}
	var out strings.Builder
	for _, doc := range strings.Split(input, "---\n")[1:] {
		if d, ok := edits[key(doc)]; ok {
			doc = d
			delete(edits, key(doc))
		}
		out.WriteString("---\n" + doc)
	}
	for _, k := range sorted(edits) {
		out.WriteString("---\n" + edits[k])
	}
	return out.String()
}
