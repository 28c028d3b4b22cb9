package schema_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/schema"
)

// tree parses one sound document.
func tree(t *testing.T, text string) *document.Node {
	t.Helper()
	docs, problems := document.Parse([]byte(text))
	if len(problems) > 0 || len(docs) != 1 || docs[0].Root == nil {
		t.Fatalf("%v %+v", problems, docs)
	}
	return docs[0].Root
}

// said is one line for each problem.
func said(problems []problem.Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, fmt.Sprintf("%d:%d %s: %s", p.Position.Line, p.Position.Column, p.Path, p.Message))
	}
	return strings.Join(lines, "\n")
}

func TestMessagesAreReadWithProtojsonsLeniency(t *testing.T) {
	for _, c := range []struct {
		name, text string
		into       proto.Message
		want       string
	}{
		{"numbers as text", `{http: [{route: [{weight: "90"}]}]}`, &networking.VirtualService{}, `http:{route:{weight:90}}`},
		{"whole floats", `{http: [{route: [{weight: 90.0}, {weight: 1e1}]}]}`, &networking.VirtualService{}, `http:{route:{weight:90} route:{weight:10}}`},
		{"enums by number", `{loadBalancer: {simple: 5}}`, &networking.TrafficPolicy{}, `load_balancer:{simple:LEAST_REQUEST}`},
		{"proto names", `{load_balancer: {simple: RANDOM}}`, &networking.TrafficPolicy{}, `load_balancer:{simple:RANDOM}`},
		{"null leaves a field alone", `{host: null, subset: v1}`, &networking.Destination{}, `subset:"v1"`},
		{"an empty member of a oneof is set", `{exact: ""}`, &networking.StringMatch{}, `exact:""`},
		{"wrappers are plain values", `{enableAutoMtls: false}`, &meshconfig.MeshConfig{}, `enable_auto_mtls:{}`},
		{"YAML 1.1 booleans without quotes", `{ignoreUriCase: yes}`, &networking.HTTPMatchRequest{}, `ignore_uri_case:true`},
		{"durations of Go", `{timeout: 1m30.5s}`, &networking.HTTPRoute{}, `timeout:{seconds:90 nanos:500000000}`},
		{"doubles", `{tracing: [{randomSamplingPercentage: 12}]}`, &telemetry.Telemetry{}, `tracing:{random_sampling_percentage:{value:12}}`},
		{"free-form structs", `{configPatches: [{patch: {value: {a: [1, x, null, true, {b: 1.5}]}}}]}`, &networking.EnvoyFilter{},
			`config_patches:{patch:{value:{fields:{key:"a" value:{list_value:{values:{number_value:1} values:{string_value:"x"} values:{null_value:NULL_VALUE} values:{bool_value:true} values:{struct_value:{fields:{key:"b" value:{number_value:1.5}}}}}}}}}}`},
		{"maps with keys that need quotes", `{match: [{headers: {"x.y": {exact: a}}}]}`, &networking.HTTPRoute{}, `match:{headers:{key:"x.y" value:{exact:"a"}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if problems := schema.Proto(tree(t, c.text), c.into, ""); len(problems) > 0 {
				t.Fatal(said(problems))
			}
			want := c.into.ProtoReflect().New().Interface()
			if err := prototext.Unmarshal([]byte(c.want), want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(c.into, want) {
				t.Errorf("read as %v, want %v", c.into, want)
			}
		})
	}
}

func TestWhatFitsIsKeptBesideWhatDoesNot(t *testing.T) {
	var vs networking.VirtualService
	problems := schema.Proto(tree(t, "hosts: [a, 5]\nhttp:\n- name: n\n  timeout: soon\n  wieght: 1\nexportTo: x\n"), &vs, "spec")
	want := "1:12 spec.hosts[1]: wants text, found a whole number \"5\"\n" +
		"4:12 spec.http[0].timeout: wants a duration, found text \"soon\"\n" +
		"5:3 spec.http[0].wieght: HTTPRoute has no field \"wieght\"\n" +
		"6:11 spec.exportTo: wants a list, found text \"x\""
	if got := said(problems); got != want {
		t.Errorf("said\n%s\nwant\n%s", got, want)
	}
	if len(vs.Hosts) != 1 || vs.Http[0].Name != "n" || vs.Http[0].Timeout != nil || vs.ExportTo != nil {
		t.Errorf("read %v", &vs)
	}
}

func TestStructsAreReadStrictly(t *testing.T) {
	var pod corev1.Pod
	problems := schema.Struct(tree(t, "metadata: {name: a, labels: {v: 1}}\nspec:\n  hostNetwork: \"true\"\n  terminationGracePeriodSeconds: 30\n  containers:\n  - {name: c, imagePullPolicy: Always, ports: [{containerPort: 8080.5}]}\n  volumes: {}\n"), &pod, "")
	want := "1:33 metadata.labels.v: wants text, found a whole number \"1\"\n" +
		"3:16 spec.hostNetwork: wants true or false, found text \"true\"\n" +
		"6:64 spec.containers[0].ports[0].containerPort: wants a whole number, found a number \"8080.5\"\n" +
		"7:12 spec.volumes: wants a list, found a mapping"
	if got := said(problems); got != want {
		t.Errorf("said\n%s\nwant\n%s", got, want)
	}
	if pod.Name != "a" || *pod.Spec.TerminationGracePeriodSeconds != 30 || pod.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways {
		t.Errorf("read %+v", pod)
	}
}

func TestNearNamesAreFound(t *testing.T) {
	known := []string{"match", "route", "redirect", "rewrite", "timeout", "corsPolicy", "directResponse", "uri"}
	for name, want := range map[string]string{
		"mathc": "match", "Match": "match", "matches": "match", "routes": "route", "rederict": "redirect", "corspolicy": "corsPolicy", "cors_policy": "corsPolicy",
		"directresponce": "directResponse", "url": "uri", "retries": "", "x": "", "": "", strings.Repeat("match", 50): "",
	} {
		if got := schema.Nearest(name, known); got != want {
			t.Errorf("%q is near %q, want %q", name, got, want)
		}
	}
	if !schema.Near("networking.istio.oi", []string{"networking.istio.io"}) || schema.Near("networking.k8s.io", []string{"networking.istio.io"}) {
		t.Error("groups: near ones are not told from others")
	}
}
