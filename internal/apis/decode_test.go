package apis_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/tullemesh/tulle/internal/apis"
)

// route is a sound virtual service.
const route = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
  labels: {app: reviews}
  annotations: {note: hello}
  creationTimestamp: "2026-01-02T03:04:05Z"
spec:
  hosts:
  - reviews
  http:
  - match:
    - headers:
        end-user: {exact: jason}
    timeout: 1m30s
    route:
    - destination: {host: reviews, subset: v2, port: {number: "9080"}}
      weight: 90
`

// only decodes a file of one object.
func only(t *testing.T, file string) *apis.Object {
	t.Helper()
	r := apis.Decode("f.yaml", []byte(file), apis.Options{})
	if len(r.Objects) != 1 {
		t.Fatalf("%d objects, problems %v", len(r.Objects), r.Problems)
	}
	return r.Objects[0]
}

func TestObjectsKeepWhatTheirFileSays(t *testing.T) {
	o := only(t, route)
	if o.Refused() || len(o.Problems) > 0 {
		t.Fatalf("refused: %v", o.Problems)
	}
	if o.Key != (apis.Key{Kind: "VirtualService", Namespace: "shop", Name: "reviews"}) || o.Key.String() != "VirtualService/shop/reviews" {
		t.Errorf("key is %v", o.Key)
	}
	if o.Group != "networking.istio.io" || o.Version != "v1" || o.File != "f.yaml" || o.Labels["app"] != "reviews" || o.Annotations["note"] != "hello" {
		t.Errorf("metadata: %+v", o)
	}
	if !o.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("created %v", o.Created)
	}
	vs, ok := o.Spec.(*networking.VirtualService)
	if !ok {
		t.Fatalf("spec is %T", o.Spec)
	}
	r := vs.Http[0]
	if r.Timeout.AsDuration() != 90*time.Second || r.Match[0].Headers["end-user"].GetExact() != "jason" || r.Route[0].Destination.Port.Number != 9080 || r.Route[0].Weight != 90 {
		t.Errorf("spec is %v", vs)
	}
	for path, want := range map[string]string{
		"spec.http[0].route[0].destination.host":    "f.yaml:18:27",
		"spec.http[0].route[0].destination.nothing": "f.yaml:18:7",
		"spec.http[0].match[0].headers.end-user":    "f.yaml:15:9",
		"spec.http[7]":                              "f.yaml:12:3",
		"":                                          "f.yaml:1:1",
	} {
		if got := o.Position(path).String(); got != want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
}

func TestEveryKindBecomesItsOwnType(t *testing.T) {
	for _, c := range []struct{ apiVersion, kind, want string }{
		{"networking.istio.io/v1alpha3", "DestinationRule", "*v1alpha3.DestinationRule"},
		{"networking.istio.io/v1beta1", "Gateway", "*v1alpha3.Gateway"},
		{"networking.istio.io/v1", "ServiceEntry", "*v1alpha3.ServiceEntry"},
		{"networking.istio.io/v1", "WorkloadEntry", "*v1alpha3.WorkloadEntry"},
		{"networking.istio.io/v1", "WorkloadGroup", "*v1alpha3.WorkloadGroup"},
		{"networking.istio.io/v1", "Sidecar", "*v1alpha3.Sidecar"},
		{"networking.istio.io/v1alpha3", "EnvoyFilter", "*v1alpha3.EnvoyFilter"},
		{"networking.istio.io/v1beta1", "ProxyConfig", "*v1beta1.ProxyConfig"},
		{"security.istio.io/v1", "PeerAuthentication", "*v1beta1.PeerAuthentication"},
		{"security.istio.io/v1beta1", "RequestAuthentication", "*v1beta1.RequestAuthentication"},
		{"security.istio.io/v1", "AuthorizationPolicy", "*v1beta1.AuthorizationPolicy"},
		{"telemetry.istio.io/v1alpha1", "Telemetry", "*v1alpha1.Telemetry"},
		{"extensions.istio.io/v1alpha1", "WasmPlugin", "*v1alpha1.WasmPlugin"},
		{"extensions.istio.io/v1alpha1", "TrafficExtension", "*v1alpha1.TrafficExtension"},
		{"gateway.networking.k8s.io/v1", "HTTPRoute", "*v1.HTTPRoute"},
		{"gateway.networking.k8s.io/v1alpha2", "TLSRoute", "*v1alpha3.TLSRoute"},
		{"v1", "Service", "*v1.Service"},
		{"v1", "Endpoints", "*v1.Endpoints"},
		{"v1", "Secret", "*apis.Secret"},
		{"apps/v1", "StatefulSet", "*v1.StatefulSet"},
		{"discovery.k8s.io/v1", "EndpointSlice", "*v1.EndpointSlice"},
	} {
		o := only(t, fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: x}\n", c.apiVersion, c.kind))
		if got := fmt.Sprintf("%T", o.Spec); got != c.want {
			t.Errorf("%s %s is %s, want %s", c.apiVersion, c.kind, got, c.want)
		}
	}
}

func TestKubernetesObjectsAreReadWhole(t *testing.T) {
	svc, ok := only(t, "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports:\n  - {name: http, port: 80, targetPort: http-web}\n  - {port: 81, targetPort: 8081}\nstatus: {anything: goes}\n").Spec.(*corev1.Service)
	if !ok || svc.Spec.Ports[0].TargetPort.StrVal != "http-web" || svc.Spec.Ports[1].TargetPort.IntVal != 8081 || svc.Spec.Selector["app"] != "web" || svc.Name != "web" {
		t.Errorf("service: %+v", svc)
	}
	deployment, ok := only(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers: [{name: c, resources: {limits: {cpu: 500m, memory: 1Gi}}, env: [{name: A, value: b}]}]\n").Spec.(*appsv1.Deployment)
	if !ok || *deployment.Spec.Replicas != 2 || deployment.Spec.Template.Spec.Containers[0].Resources.Limits.Cpu().MilliValue() != 500 {
		t.Errorf("deployment: %+v", deployment)
	}
	slice, ok := only(t, "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]\nports: [{port: 80}]\n").Spec.(*discoveryv1.EndpointSlice)
	if !ok || slice.Endpoints[0].Addresses[0] != "10.0.0.1" || !*slice.Endpoints[0].Conditions.Ready || *slice.Ports[0].Port != 80 {
		t.Errorf("slice: %+v", slice)
	}
	o := only(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web}\nspec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}\n")
	if gateway, ok := o.Spec.(*gatewayv1.Gateway); !ok || gateway.Spec.Listeners[0].Port != 80 || o.Key.Kind != "Gateway.gateway.networking.k8s.io" || !o.Refused() {
		t.Errorf("gateway: %+v", o)
	}
	if ns := only(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio-injection: enabled}}\n"); ns.Key.Namespace != "" || ns.Key.String() != "Namespace/shop" {
		t.Errorf("a namespace is in namespace %q", ns.Key.Namespace)
	}
}

func TestSecretsPrintAsRedacted(t *testing.T) {
	o := only(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: cert}\ntype: kubernetes.io/tls\ndata: {tls.crt: Y2VydA==}\nstringData: {tls.key: private}\n")
	s, ok := o.Spec.(*apis.Secret)
	if !ok || s.Type != "kubernetes.io/tls" || string(s.Data["tls.crt"].Reveal()) != "cert" || string(s.Data["tls.key"].Reveal()) != "private" {
		t.Fatalf("secret is %T, problems %v", o.Spec, o.Problems)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{string(b), fmt.Sprintf("%v %+v %s %q %#v %x %d", s, s, s, s, s.Data["tls.key"], s.Data["tls.key"], s.Data["tls.key"])} {
		if strings.Contains(printed, "private") || strings.Contains(printed, "112 114") || strings.Contains(printed, "70726976") || !strings.Contains(printed, "[redacted]") {
			t.Errorf("printed as %s", printed)
		}
	}
}

func TestTheHashFollowsTheContent(t *testing.T) {
	base := only(t, route).Hash
	if only(t, "# a comment\n\n"+route).Hash != base {
		t.Error("a comment changes the hash")
	}
	if only(t, route+"status: {conditions: []}\n").Hash != base {
		t.Error("the status changes the hash")
	}
	seen := map[uint64]string{base: "the original"}
	for _, edit := range [][2]string{{"weight: 90", "weight: 91"}, {"{app: reviews}", "{app: other}"}, {"hello", "bye"}, {"/v1\n", "/v1beta1\n"}, {"name: reviews", "name: ratings"}, {"namespace: shop", "namespace: web"}} {
		h := only(t, strings.Replace(route, edit[0], edit[1], 1)).Hash
		if other, taken := seen[h]; taken {
			t.Errorf("%s has the hash of %s", edit[1], other)
		}
		seen[h] = edit[1]
	}
}

func TestDefaultNamespaceIsTheCallers(t *testing.T) {
	file := []byte(strings.Replace(route, "  namespace: shop\n", "", 1))
	for want, opts := range map[string]apis.Options{"default": {}, "team": {DefaultNamespace: "team"}} {
		if o := apis.Decode("f.yaml", file, opts).Objects[0]; o.Key.Namespace != want {
			t.Errorf("namespace %q, want %q", o.Key.Namespace, want)
		}
	}
}

func TestListsAreFlattened(t *testing.T) {
	indent := func(s string) string { return "- " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ") + "\n" }
	list := "apiVersion: v1\nkind: List\nitems:\n" + indent(route) + indent("apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: {a: b, a: c}}\n") +
		indent("apiVersion: v1\nkind: ServiceList\nitems:\n"+indent("apiVersion: v1\nkind: Service\nmetadata: {name: inner}\n"))
	r := apis.Decode("f.yaml", []byte(list), apis.Options{})
	var names []string
	for _, o := range r.Objects {
		names = append(names, fmt.Sprintf("%s %v", o.Key, o.Refused()))
	}
	want := []string{"VirtualService/shop/reviews false", "Service/default/web true", "Service/default/inner false"}
	if !slices.Equal(names, want) || len(r.Problems) != 1 {
		t.Errorf("%v, want %v; problems %v", names, want, r.Problems)
	}
	deep := "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n"
	for range 6 {
		deep = "apiVersion: v1\nkind: List\nitems:\n" + indent(deep)
	}
	if r := apis.Decode("f.yaml", []byte(deep), apis.Options{}); len(r.Objects) != 0 || len(r.Problems) != 1 || r.Problems[0].Code != "TUL1001" {
		t.Errorf("Lists without end: %v", r.Problems)
	}
}

func TestOtherPeoplesFilesAreLeftAlone(t *testing.T) {
	for name, file := range map[string]string{
		"a kind of Kubernetes": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n",
		"a ConfigMap":          "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
		"a CRD":                "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\n",
		"another Service":      "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n",
		"an Ingress":           "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x}\n",
		"a compose file":       "services:\n  web: {image: x}\n",
		"values of a chart":    "replicas: 2\nimage: {tag: x}\n",
	} {
		r := apis.Decode("f.yaml", []byte(file+"---\n"+file), apis.Options{})
		if len(r.Objects) != 0 || len(r.Problems) != 1 || r.Problems[0].Level != apis.LevelInfo {
			t.Errorf("%s: %v", name, r.Problems)
		}
	}
	r := apis.Decode("f.yaml", []byte("apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\nmetadata: {name: x}\n"), apis.Options{})
	if len(r.Objects) != 0 || len(r.Problems) != 1 || r.Problems[0].Level != apis.LevelUnsupported || r.Problems[0].Key.Kind != "XBackend" {
		t.Errorf("an experiment: %v", r.Problems)
	}
	if r := apis.Decode("empty.yaml", []byte("# nothing\n---\n\n"), apis.Options{}); len(r.Objects)+len(r.Problems) != 0 {
		t.Errorf("an empty file: %+v", r)
	}
}

func TestABadObjectHidesNoGoodOne(t *testing.T) {
	bad := strings.Replace(strings.Replace(route, "weight", "wieght", 1), "name: reviews", "name: bad", 1)
	r := apis.Decode("f.yaml", []byte(bad+"---\n\tbroken\n---\n"+route), apis.Options{})
	if len(r.Objects) != 2 || !r.Objects[0].Refused() || r.Objects[1].Refused() || len(r.Problems) != 2 {
		t.Errorf("%d objects, problems %v", len(r.Objects), r.Problems)
	}
	if !slices.IsSortedFunc(r.Problems, func(a, b apis.Problem) int { return a.Position.Line - b.Position.Line }) {
		t.Errorf("not sorted by place: %v", r.Problems)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	r := apis.Decode("f.yaml", []byte(strings.Replace(route, "  hosts:", "  hosts:\n"+strings.Repeat("  - [x]\n", 3000), 1)), apis.Options{})
	if n := len(r.Problems); n != 1001 || !strings.Contains(r.Problems[n-1].Message, "2000 more problems") {
		t.Errorf("%d problems, last %v", n, r.Problems[n-1])
	}
}

func TestProblemsAreFlatInJSON(t *testing.T) {
	p := only(t, strings.Replace(route, "subset", "subSet", 1)).Problems[0]
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"code":"TUL1101","level":"error","kind":"VirtualService","namespace":"shop","name":"reviews","path":"spec.http[0].route[0].destination.subSet","file":"f.yaml","line":18,"column":36,` +
		`"message":"Destination has no field \"subSet\"","hint":"did you mean \"subset\"?","effect":"the VirtualService is refused: its last good version stays; without one it counts as absent"}`
	if string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
	var back apis.Problem
	if err := json.Unmarshal(b, &back); err != nil || back.Key != p.Key || back.Position != p.Position || back.Message != p.Message {
		t.Errorf("read back as %+v, %v", back, err)
	}
}

func TestRefusedSecurityObjectsSayThatTheyDeny(t *testing.T) {
	o := only(t, "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x}\nspec: {mtls: {mode: STRICTER}}\n")
	if _, ok := o.Spec.(*security.PeerAuthentication); !ok || !strings.Contains(o.Problems[0].Effect, "deny") {
		t.Errorf("%T, effect %q", o.Spec, o.Problems[0].Effect)
	}
}

// Istio's samples are what people have: all of them decode, and what is refused is refused as unsupported.
func TestIstiosSamplesDecode(t *testing.T) {
	objects := 0
	err := filepath.WalkDir(istioData(t, "samples"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r := apis.Decode(path, data, apis.Options{})
		objects += len(r.Objects)
		for _, p := range r.Problems {
			if p.Level == apis.LevelError && !strings.Contains(path, "spire") { // those hold helm values and templates
				t.Errorf("%s", p)
			}
		}
		return nil
	})
	if err != nil || objects < 200 {
		t.Errorf("%d objects: %v", objects, err)
	}
}

// Half-saved and mangled files come in all the time. The fuzzer searches further; this keeps a fixed sample in every run.
func TestMangledFilesNeverStopTheDecoder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var files [][]byte
	for _, archive := range archives(t) {
		for _, f := range archive.Files {
			files = append(files, f.Data)
		}
	}
	slices.SortFunc(files, bytes.Compare)
	pieces := []string{"", "\t", "\n", ": ", "- ", "&a ", "*a", "<<: *a\n", "{", "}", "[", "]", "'", "\"", "|\n", "---\n", "!!int ", "null", "1e999", "\u2028", "\x00", "\xff", "#"}
	for range 3000 {
		data := slices.Clone(files[random.IntN(len(files))])
		for range 1 + random.IntN(4) {
			at := random.IntN(len(data) + 1)
			end := min(len(data), at+random.IntN(6))
			data = slices.Replace(data, at, end, []byte(pieces[random.IntN(len(pieces))])...)
		}
		r := apis.Decode("f.yaml", data, apis.Options{})
		for _, p := range r.Problems {
			if p.Message == "" || p.Effect == "" || p.Position.Line < 1 {
				t.Fatalf("incomplete: %+v\n%s", p, data)
			}
		}
		apis.Render(r.Problems, map[string][]byte{"f.yaml": data}, true)
		apis.DecodeMeshConfig("f.yaml", data)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(route))
	for _, archive := range archives(f) {
		for i, file := range archive.Files {
			if i%8 == 0 {
				f.Add(file.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := apis.Decode("f.yaml", data, apis.Options{})
		for _, p := range r.Problems {
			if p.Message == "" || p.Effect == "" || p.Position.Line < 1 {
				t.Errorf("incomplete: %+v", p)
			}
		}
		again := apis.Decode("f.yaml", data, apis.Options{})
		if fmt.Sprint(again.Problems) != fmt.Sprint(r.Problems) {
			t.Errorf("not deterministic:\n%v\n%v", r.Problems, again.Problems)
		}
		apis.Render(r.Problems, map[string][]byte{"f.yaml": data}, false)
		apis.DecodeMeshConfig("f.yaml", data)
	})
}
