package validate

import (
	"slices"

	security "istio.io/api/security/v1beta1"
	typebeta "istio.io/api/type/v1beta1"
)

// selector checks the selector of security and telemetry kinds.
func (c *checker) selector(at string, s *typebeta.WorkloadSelector) {
	if s != nil {
		c.selectorLabels(at, "matchLabels", s.MatchLabels, "it takes every workload of the namespace")
	}
}

// targets checks what a policy applies to: a selector, or references.
func (c *checker) targets(s *typebeta.WorkloadSelector, ref *typebeta.PolicyTargetReference, refs []*typebeta.PolicyTargetReference) {
	set := 0
	for _, is := range []bool{s != nil, ref != nil, len(refs) > 0} {
		if is {
			set++
		}
	}
	if set > 1 {
		c.errorf("spec", "keep one of them", "only one of selector, targetRef and targetRefs may be set")
	}
	c.selector("spec.selector", s)
	if ref != nil {
		c.targetRef("spec.targetRef", ref)
	}
	for i, r := range refs {
		c.targetRef(index("spec", "targetRefs", i), r)
	}
}

func (c *checker) targetRef(at string, r *typebeta.PolicyTargetReference) {
	if r == nil {
		return
	}
	if r.Name == "" {
		c.errorf(at, "add name", "the reference has no name")
	}
	if r.Namespace != "" {
		c.errorf(at+".namespace", "remove it", "a policy applies to targets of its own namespace only")
	}
	target := r.Group + "/" + r.Kind
	if r.Group == "" {
		target = "core/" + r.Kind
	}
	known := []string{"core/Service", "networking.istio.io/ServiceEntry", "gateway.networking.k8s.io/Gateway", "gateway.networking.k8s.io/GatewayClass"}
	if !slices.Contains(known, target) {
		c.errorf(at+".kind", "use Service, ServiceEntry, Gateway or GatewayClass with its group", "a policy can't apply to %s/%s", r.Group, r.Kind)
	}
}

func (c *checker) peerAuthentication(p *security.PeerAuthentication) {
	if len(p.Selector.GetMatchLabels()) == 0 && len(p.PortLevelMtls) != 0 {
		c.errorf("spec.portLevelMtls", "add a selector with labels", "a policy of the mesh or a namespace has no ports to speak of")
	}
	ports := make(map[string]uint32, len(p.PortLevelMtls))
	for port := range p.PortLevelMtls {
		ports[portKey(port)] = port
	}
	for _, key := range sortedKeys(ports) {
		c.check(child("spec.portLevelMtls", key), portRule(int64(ports[key])))
	}
	c.selector("spec.selector", p.Selector)
}
