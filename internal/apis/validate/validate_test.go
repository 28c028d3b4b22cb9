package validate_test

import (
	"fmt"
	"strings"
	"testing"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	typebeta "istio.io/api/type/v1beta1"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/apis/validate"
)

// routed is a sound virtual service with one route, for a test to spoil.
func routed(edit func(*networking.HTTPRoute)) *networking.VirtualService {
	r := &networking.HTTPRoute{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: "a"}}}}
	edit(r)
	return &networking.VirtualService{Hosts: []string{"a.example.com"}, Http: []*networking.HTTPRoute{r}}
}

func errorsOf(problems []problem.Problem) []string {
	var said []string
	for _, p := range problems {
		if p.Level == problem.Error {
			said = append(said, p.Path+": "+p.Message)
		}
	}
	return said
}

func TestHeaderValuesHoldCompleteVariables(t *testing.T) {
	for value, sound := range map[string]bool{
		"": true, "plain text\twith a tab": true, "100%%": true, "%REQ(:path)%": true, "a%PROTOCOL%b%PROTOCOL%": true, "%START_TIME(%%Y)%": true,
		`%REQ(["a", "b"])%`: true, `%UPSTREAM_METADATA([ "x" , "y\"z" ])%`: true, "%REQ( x )%": true, "é": true,
		"%": false, "50% off": false, "%REQ": false, "%REQ(x": false, "%REQ(x)": false, "%REQ(x)y%": false, `%REQ(["a")%`: false, `%REQ([a])%`: false, `%REQ(["a" "b"])%`: false,
		`%REQ(["a"]%`: false, "a\nb": false, "a\x00": false, "\x7f": false, `%REQ(["a\`: false, `%REQ(\`: false,
	} {
		vs := routed(func(r *networking.HTTPRoute) {
			r.Headers = &networking.Headers{Request: &networking.Headers_HeaderOperations{Set: map[string]string{"x": value}}}
		})
		if said := errorsOf(validate.Object(validate.Meta{Name: "x"}, vs)); (len(said) == 0) != sound {
			t.Errorf("%q: %q, want sound %v", value, said, sound)
		}
	}
}

func TestHostNamesAreThoseOfIstio(t *testing.T) {
	for host, sound := range map[string]bool{
		"a": true, "A.Example.COM": true, "a.example.com.": true, "*.example.com": true, "*-a.example.com": true, "*a.com": true, "10.0.0.1": true, "2001:db8::1": true, strings.Repeat("a", 63): true,
		"": false, "a_b": false, "-a": false, "a-": false, "a..b": false, "a.*.b": false, "*.*": false, "a.1": false, strings.Repeat("a", 64): false, "a b": false, "a/b": false, "http://a": false,
	} {
		vs := routed(func(*networking.HTTPRoute) {})
		vs.Hosts = []string{host}
		if said := errorsOf(validate.Object(validate.Meta{Name: "x"}, vs)); (len(said) == 0) != sound {
			t.Errorf("%q: %q, want sound %v", host, said, sound)
		}
	}
}

func TestGatewaysRouteWhatTheMeshDoesNot(t *testing.T) {
	claims := func(r *networking.HTTPRoute) {
		r.Match = []*networking.HTTPMatchRequest{{Headers: map[string]*networking.StringMatch{"@request.auth.claims[group]": {MatchType: &networking.StringMatch_Exact{Exact: "a"}}}}}
	}
	for _, c := range []struct {
		name     string
		gateways []string
		hosts    string
		sound    bool
	}{
		{"any host at a gateway", []string{"web"}, "*", true},
		{"any host in the mesh", nil, "*", false},
		{"any host at both", []string{"web", "mesh"}, "*", false},
	} {
		vs := routed(func(*networking.HTTPRoute) {})
		vs.Gateways, vs.Hosts = c.gateways, []string{c.hosts}
		if said := errorsOf(validate.Object(validate.Meta{Name: "x"}, vs)); (len(said) == 0) != c.sound {
			t.Errorf("%s: %q", c.name, said)
		}
	}
	vs := routed(claims)
	if len(errorsOf(validate.Object(validate.Meta{Name: "x"}, vs))) != 1 {
		t.Error("claims of a token are routed in the mesh")
	}
	vs.Gateways = []string{"shop/web"}
	if said := errorsOf(validate.Object(validate.Meta{Name: "x"}, vs)); len(said) != 0 {
		t.Errorf("claims at a gateway: %q", said)
	}
}

func TestExportToOfADestinationRuleWithASelectorStaysAtHome(t *testing.T) {
	for exportTo, sound := range map[string]bool{"": true, ".": true, "shop": true, "*": false, "other": false, ". other": false, ". shop": false} {
		dr := &networking.DestinationRule{Host: "a", ExportTo: strings.Fields(exportTo)}
		dr.TrafficPolicy = &networking.TrafficPolicy{LoadBalancer: &networking.LoadBalancerSettings{}}
		dr.WorkloadSelector = &typebeta.WorkloadSelector{MatchLabels: map[string]string{"app": "a"}}
		if said := errorsOf(validate.Object(validate.Meta{Namespace: "shop", Name: "x"}, dr)); (len(said) == 0) != sound {
			t.Errorf("%q: %q, want sound %v", exportTo, said, sound)
		}
	}
}

func TestLocalitiesMayNotOverlap(t *testing.T) {
	for to, sound := range map[string]bool{
		"r1 r2": true, "r1/z1 r1/z2": true, "r1/z1/* r1/z2/*": true, "r1/z1/s1 r1/z1/s2": true, "r1 r10": true,
		"r1 r1/z1": false, "r1/* r1/z1": false, "r1/z1 r1/z1/s1": false, "* r1": false, "r1//s r2": false, "*/z r2": false, "r*/z* r2": false,
	} {
		weights := map[string]uint32{}
		for _, l := range strings.Fields(to) {
			weights[l] = 50
		}
		dr := &networking.DestinationRule{Host: "a", TrafficPolicy: &networking.TrafficPolicy{LoadBalancer: &networking.LoadBalancerSettings{
			LocalityLbSetting: &networking.LocalityLoadBalancerSetting{Distribute: []*networking.LocalityLoadBalancerSetting_Distribute{{From: "r1", To: weights}}},
		}}}
		if said := errorsOf(validate.Object(validate.Meta{Name: "x"}, dr)); (len(said) == 0) != sound {
			t.Errorf("%q: %q, want sound %v", to, said, sound)
		}
	}
}

func TestDryRunIsForAuthorizationPolicies(t *testing.T) {
	for _, c := range []struct {
		action security.AuthorizationPolicy_Action
		value  string
		sound  bool
	}{{security.AuthorizationPolicy_ALLOW, "true", true}, {security.AuthorizationPolicy_DENY, "0", true}, {security.AuthorizationPolicy_AUDIT, "true", false}, {security.AuthorizationPolicy_ALLOW, "x", false}} {
		p := &security.AuthorizationPolicy{Action: c.action, Rules: []*security.Rule{{}}}
		meta := validate.Meta{Name: "x", Annotations: map[string]string{"istio.io/dry-run": c.value}}
		if said := errorsOf(validate.Object(meta, p)); (len(said) == 0) != c.sound {
			t.Errorf("%s %s: %q", c.action, c.value, said)
		}
	}
}

func TestFindingsComeInOneOrder(t *testing.T) {
	headers := map[string]string{}
	for i := range 20 {
		headers[fmt.Sprintf("x %d", i)] = "%"
	}
	vs := routed(func(r *networking.HTTPRoute) {
		r.Headers = &networking.Headers{Response: &networking.Headers_HeaderOperations{Set: headers}}
	})
	first := fmt.Sprint(validate.Object(validate.Meta{Name: "x"}, vs))
	for range 5 {
		if again := fmt.Sprint(validate.Object(validate.Meta{Name: "x"}, vs)); again != first {
			t.Fatal("the order differs from run to run")
		}
	}
}
