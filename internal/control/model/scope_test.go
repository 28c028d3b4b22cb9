package model_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/control/model"
)

const scopeWorld = `
apiVersion: v1
kind: Service
metadata: {name: two, namespace: b}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}]}
---
`

func scopeServices(e *model.EgressListener) []string { return hosts(e.Services) }

func TestSidecarScopes(t *testing.T) {
	world := service("own", "a") + service("other", "b") + scopeWorld + service("far", "c") +
		object("VirtualService", "b", "other", "{hosts: [other], http: [{route: [{destination: {host: far.c.svc.cluster.local}}]}]}") +
		object("VirtualService", "c", "far", "{hosts: [far], http: [{route: [{destination: {host: far}}]}]}")
	for _, c := range []struct {
		name, sidecars     string
		client             string
		labels             map[string]string
		origin             string
		services, rules    []string // of the first listener
		reachable          []string
		registryOnly, none bool
	}{
		{name: "no Sidecar: everything", client: "a", none: true,
			services:  []string{"c/far.c.svc.cluster.local", "b/other.b.svc.cluster.local", "a/own.a.svc.cluster.local", "b/two.b.svc.cluster.local"},
			rules:     []string{"c/far", "b/other"},
			reachable: []string{"c/far.c.svc.cluster.local", "b/other.b.svc.cluster.local", "a/own.a.svc.cluster.local", "b/two.b.svc.cluster.local"}},
		{name: "own namespace only", client: "a", sidecars: object("Sidecar", "a", "s", "{egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), origin: "s",
			services: []string{"a/own.a.svc.cluster.local"}, reachable: []string{"a/own.a.svc.cluster.local"}, registryOnly: true},
		{name: "what imported rules lead to is reachable", client: "a", sidecars: object("Sidecar", "a", "s", "{egress: [{hosts: ['b/other.b.svc.cluster.local']}]}"), origin: "s",
			services: []string{"b/other.b.svc.cluster.local"}, rules: []string{"b/other"},
			reachable: []string{"b/other.b.svc.cluster.local", "c/far.c.svc.cluster.local"}},
		{name: "exclusions", client: "a", sidecars: object("Sidecar", "a", "s", "{egress: [{hosts: ['*/*', '~b/*']}]}"), origin: "s",
			services: []string{"c/far.c.svc.cluster.local", "a/own.a.svc.cluster.local"}, rules: []string{"c/far"},
			reachable: []string{"c/far.c.svc.cluster.local", "a/own.a.svc.cluster.local"}},
		{name: "the root namespace's default means each client's own namespace", client: "b",
			sidecars: object("Sidecar", "istio-system", "root", "{egress: [{hosts: ['./two.b.svc.cluster.local']}]}"), origin: "root",
			services: []string{"b/two.b.svc.cluster.local"}, reachable: []string{"b/two.b.svc.cluster.local"}},
		{name: "a selector goes before the namespace's", client: "a", labels: map[string]string{"app": "x"}, origin: "sel",
			sidecars: object("Sidecar", "a", "s", "{egress: [{hosts: ['*/*']}]}") + object("Sidecar", "a", "sel", "{workloadSelector: {labels: {app: x}}, egress: [{hosts: ['c/*']}]}"),
			services: []string{"c/far.c.svc.cluster.local"}, rules: []string{"c/far"}, reachable: []string{"c/far.c.svc.cluster.local"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := build(t, world+c.sidecars)
			scope := s.Scope(c.client, c.labels)
			if scope.Default != c.none || scope.Origin.Key.Name != c.origin {
				t.Errorf("default %v, origin %v", scope.Default, scope.Origin)
			}
			if got := scope.RegistryOnly != nil && *scope.RegistryOnly; got != c.registryOnly {
				t.Errorf("registry only: %v", got)
			}
			if diff := cmp.Diff(c.services, scopeServices(&scope.Egress[0])); diff != "" {
				t.Errorf("services (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.rules, names(scope.Egress[0].Rules)); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.reachable, hosts(scope.Services)); diff != "" {
				t.Errorf("reachable (-want +got):\n%s", diff)
			}
			if again := s.Scope(c.client, c.labels); again != scope {
				t.Error("the scope is not stable")
			}
		})
	}
}

func TestListenersWithPortsTakeThosePortsOnly(t *testing.T) {
	s, _ := build(t, scopeWorld+service("one", "b")+object("Sidecar", "b", "s", `{egress: [
  {port: {number: 81, name: x, protocol: HTTP}, bind: 127.0.0.1, captureMode: NONE, hosts: ['./*']},
  {port: {number: 9000, name: p, protocol: HTTP_PROXY}, hosts: ['./*']},
  {port: {number: 80, name: y, protocol: HTTP}, hosts: ['./*']}]}`))
	scope := s.Scope("b", nil)
	var got [][]int
	for _, e := range scope.Egress {
		var ports []int
		for _, svc := range e.Services {
			for _, p := range svc.Ports {
				ports = append(ports, p.Number)
			}
		}
		got = append(got, ports)
	}
	if diff := cmp.Diff([][]int{{81}, {80, 80, 81}, {80, 80}}, got); diff != "" {
		t.Error(diff)
	}
	if e := scope.Egress[0]; e.Bind != "127.0.0.1" || !e.CaptureNone || e.Port != 81 {
		t.Errorf("%+v", e)
	}
	for _, svc := range scope.Services {
		if svc.Name == "two" && len(svc.Ports) != 2 {
			t.Errorf("the listeners' parts of a service are not joined: %+v", svc.Ports)
		}
	}
}

func TestSidecarConflicts(t *testing.T) {
	_, problems := build(t, object("WorkloadEntry", "a", "w", "{address: 10.0.0.1, labels: {app: x, v: '1'}}")+
		object("Sidecar", "a", "one", "{egress: [{hosts: ['./*']}]}")+object("Sidecar", "a", "two", "{egress: [{hosts: ['./*']}]}")+
		object("Sidecar", "a", "sel-1", "{workloadSelector: {labels: {app: x}}, egress: [{hosts: ['./*']}]}")+
		object("Sidecar", "a", "sel-2", "{workloadSelector: {labels: {v: '1'}}, egress: [{hosts: ['./*']}]}"))
	for _, name := range []string{"one", "two"} {
		wantProblem(t, problems, problem.CodeSidecarDefaults, "Sidecar/a/"+name, "spec")
	}
	for _, name := range []string{"sel-1", "sel-2"} {
		wantProblem(t, problems, problem.CodeSidecarSelectors, "Sidecar/a/"+name, "spec.workloadSelector")
	}
}
