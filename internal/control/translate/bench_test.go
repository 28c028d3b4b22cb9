package translate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/control/model"
	"github.com/tullemesh/tulle/internal/control/translate"
	"github.com/tullemesh/tulle/internal/control/translate/view"
	"github.com/tullemesh/tulle/internal/wire"
)

// large is a mesh of services with endpoints in namespaces, as the load test
// of the xDS server has it: each proxy is of another service.
func large(services, endpoints, namespaces int) string {
	var b strings.Builder
	for i := range services {
		ns, name := fmt.Sprintf("ns%d", i%namespaces), fmt.Sprintf("svc%d", i)
		fmt.Fprintf(&b, "{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s}, spec: {clusterIP: 10.%d.%d.%d, selector: {app: %s}, ports: [{name: http, port: 80, targetPort: 8080}]}}\n---\n",
			name, ns, 96+i/65536, i/256%256, i%256, name)
		for e := range endpoints {
			fmt.Fprintf(&b, "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: %s-%d, namespace: %s}, spec: {address: 10.%d.%d.%d, labels: {app: %s, security.istio.io/tlsMode: istio}, serviceAccount: %s}}\n---\n",
				name, e, ns, 10+e, i/256, i%256, name, name)
		}
	}
	return b.String()
}

func largeNode(i, namespaces int) string {
	return fmt.Sprintf(`{"id": "sidecar~10.10.%d.%d~svc%d-0.ns%d~ns%d.svc.cluster.local", "metadata": {"NAMESPACE": "ns%d"}}`,
		i/256, i%256, i, i%namespaces, i%namespaces, i%namespaces)
}

// whole builds everything that a proxy subscribes to; it returns the bytes.
func whole(b *testing.B, tr *translate.Translator, v *view.View) int {
	size := 0
	for _, u := range []string{wire.ClusterType, wire.EndpointType, wire.ListenerType, wire.RouteType} {
		for _, n := range tr.Names(v, u) {
			r, err := tr.Build(v, u, n)
			if err != nil {
				b.Fatal(err)
			}
			size += len(r.Body.GetValue())
		}
	}
	return size
}

const benchServices, benchNamespaces, benchProxies = 1000, 50, 500

func benchViews(b *testing.B, s *model.Snapshot) []*view.View {
	views := make([]*view.View, benchProxies)
	for i := range views {
		views[i] = viewOf(b, s, largeNode(i, benchNamespaces), "")
	}
	return views
}

// BenchmarkFirst500Proxies builds complete configurations of 500 proxies from
// nothing: the time is that of all.
func BenchmarkFirst500Proxies(b *testing.B) {
	s := snapshotOf(b, "", large(benchServices, 5, benchNamespaces))
	views := benchViews(b, s)
	b.ReportAllocs()
	for b.Loop() {
		tr := translate.New(s, nil)
		size := 0
		for _, v := range views {
			size += whole(b, tr, v)
		}
		b.ReportMetric(float64(size)/benchProxies, "bytes/proxy")
	}
}

// BenchmarkOneProxyRemembered builds one proxy's configuration where those of
// its namespace exist.
func BenchmarkOneProxyRemembered(b *testing.B) {
	s := snapshotOf(b, "", large(benchServices, 5, benchNamespaces))
	tr := translate.New(s, nil)
	whole(b, tr, viewOf(b, s, largeNode(0, benchNamespaces), ""))
	v := viewOf(b, s, largeNode(benchNamespaces, benchNamespaces), "")
	whole(b, tr, v)
	b.ReportAllocs()
	for b.Loop() {
		whole(b, tr, v)
	}
}

// BenchmarkEndpointEdit takes one endpoint edit over to a new Translator and
// builds what is dirty for one proxy.
func BenchmarkEndpointEdit(b *testing.B) {
	w := newWorld(b, "")
	w.edit("mesh", large(benchServices, 5, benchNamespaces))
	extra := func(weight int) string {
		return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: extra, namespace: ns7}, spec: {address: 10.99.0.1, weight: %d, labels: {app: svc7}}}", weight)
	}
	benchEdit(b, w, extra)
}

// BenchmarkRuleEdit is the same for a VirtualService.
func BenchmarkRuleEdit(b *testing.B) {
	w := newWorld(b, "")
	w.edit("mesh", large(benchServices, 5, benchNamespaces))
	extra := func(timeout int) string {
		return rules("extra", "ns7", fmt.Sprintf("hosts: [svc7], http: [{route: [{destination: {host: svc7}}], timeout: %ds}]", timeout+1))
	}
	benchEdit(b, w, extra)
}

func benchEdit(b *testing.B, w *world, extra func(int) string) {
	w.edit("extra", extra(1))
	s := w.snapshot()
	tr := translate.New(s, nil)
	for i := range benchNamespaces {
		whole(b, tr, viewOf(b, s, largeNode(i, benchNamespaces), ""))
	}
	n := 1
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		n++
		w.edit("extra", extra(n))
		next := w.snapshot()
		v := viewOf(b, next, largeNode(0, benchNamespaces), "")
		b.StartTimer()
		tr2 := translate.New(next, tr)
		_, dirty := tr2.Dirty(s)
		for u, names := range dirty {
			for name := range names {
				if name != "*" {
					if _, err := tr2.Build(v, u, name); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		tr, s = tr2, next
	}
}
