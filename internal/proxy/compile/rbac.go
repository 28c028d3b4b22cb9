package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/filter/authz"
)

func (v *conv) policies(rules, shadow *rbacv3.RBAC, prefix, path string) *authz.Policies {
	p := &authz.Policies{ShadowPrefix: prefix}
	if rules != nil {
		p.Rules = v.rules(rules, join(path, "rules"))
	}
	if shadow != nil {
		p.Shadow = v.rules(shadow, join(path, "shadow_rules"))
	}
	return p
}

func (v *conv) rules(m *rbacv3.RBAC, path string) *authz.Rules {
	r := &authz.Rules{}
	switch m.GetAction() {
	case rbacv3.RBAC_ALLOW:
		r.Action = authz.Allow
	case rbacv3.RBAC_DENY:
		r.Action = authz.Deny
	case rbacv3.RBAC_LOG:
		r.Action = authz.Log
	default:
		v.report.invalid(join(path, "action"), "no such action")
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetPolicies())) {
		policy := m.GetPolicies()[name]
		at := fmt.Sprintf("%s.policies[%q]", path, name)
		permissions, principals := join(at, "permissions"), join(at, "principals")
		if len(policy.GetPermissions()) == 0 {
			v.report.invalid(permissions, "at least one is needed")
		}
		if len(policy.GetPrincipals()) == 0 {
			v.report.invalid(principals, "at least one is needed")
		}
		r.Policies = append(r.Policies, authz.Policy{
			Name:       name,
			Permission: anyOf(each(policy.GetPermissions(), permissions, 0, v.permission)),
			Principal:  anyOf(each(policy.GetPrincipals(), principals, 0, v.principal)),
		})
	}
	return r
}

// anyOf is the disjunction; one operand needs no node.
func anyOf(list []authz.Condition) authz.Condition {
	if len(list) == 1 {
		return list[0]
	}
	return authz.Condition{Kind: authz.Or, Sub: list}
}

func each[M any](list []M, path string, depth int, one func(M, string, int) authz.Condition) []authz.Condition {
	out := make([]authz.Condition, len(list))
	for i, m := range list {
		out[i] = one(m, fmt.Sprintf("%s[%d]", path, i), depth)
	}
	return out
}

// never is what a condition compiles to whose resource is refused.
func never() authz.Condition { return authz.Condition{Kind: authz.Or} }

func (v *conv) permission(m *rbacv3.Permission, path string, depth int) authz.Condition {
	if depth > limit.PolicyDepthMax {
		v.report.refuse(path, fmt.Sprintf("conditions are nested deeper than %d", limit.PolicyDepthMax))
		return never()
	}
	switch r := m.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return v.anything(r.Any, path)
	case *rbacv3.Permission_AndRules:
		return authz.Condition{Kind: authz.And, Sub: each(r.AndRules.GetRules(), path+".and_rules.rules", depth+1, v.permission)}
	case *rbacv3.Permission_OrRules:
		return authz.Condition{Kind: authz.Or, Sub: each(r.OrRules.GetRules(), path+".or_rules.rules", depth+1, v.permission)}
	case *rbacv3.Permission_NotRule:
		return authz.Condition{Kind: authz.Not, Sub: []authz.Condition{v.permission(r.NotRule, path+".not_rule", depth+1)}}
	case *rbacv3.Permission_Header:
		return authz.Condition{Kind: authz.Header, Header: v.header(r.Header, path+".header")}
	case *rbacv3.Permission_UrlPath:
		return authz.Condition{Kind: authz.Path, String: v.text(r.UrlPath.GetPath(), path+".url_path.path")}
	case *rbacv3.Permission_UriTemplate:
		return v.template(r.UriTemplate, path+".uri_template")
	case *rbacv3.Permission_DestinationIp:
		return v.address(authz.DestinationIP, r.DestinationIp, path+".destination_ip")
	case *rbacv3.Permission_DestinationPort:
		return authz.Condition{Kind: authz.DestinationPort, PortStart: r.DestinationPort, PortEnd: r.DestinationPort + 1}
	case *rbacv3.Permission_DestinationPortRange:
		c := authz.Condition{Kind: authz.DestinationPort}
		for _, p := range v.portRange(r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd(), path+".destination_port_range") {
			c.PortStart, c.PortEnd = p.Start, p.End
		}
		return c
	case *rbacv3.Permission_RequestedServerName:
		return authz.Condition{Kind: authz.ServerName, String: v.text(r.RequestedServerName, path+".requested_server_name")}
	}
	v.report.refuse(path, "permission is not supported")
	return never()
}

func (v *conv) principal(m *rbacv3.Principal, path string, depth int) authz.Condition {
	if depth > limit.PolicyDepthMax {
		v.report.refuse(path, fmt.Sprintf("conditions are nested deeper than %d", limit.PolicyDepthMax))
		return never()
	}
	switch r := m.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return v.anything(r.Any, path)
	case *rbacv3.Principal_AndIds:
		return authz.Condition{Kind: authz.And, Sub: each(r.AndIds.GetIds(), path+".and_ids.ids", depth+1, v.principal)}
	case *rbacv3.Principal_OrIds:
		return authz.Condition{Kind: authz.Or, Sub: each(r.OrIds.GetIds(), path+".or_ids.ids", depth+1, v.principal)}
	case *rbacv3.Principal_NotId:
		return authz.Condition{Kind: authz.Not, Sub: []authz.Condition{v.principal(r.NotId, path+".not_id", depth+1)}}
	case *rbacv3.Principal_Authenticated_:
		if r.Authenticated.GetPrincipalName() == nil {
			return authz.Condition{Kind: authz.Authenticated, AnyPeer: true}
		}
		return authz.Condition{Kind: authz.Authenticated, String: v.text(r.Authenticated.GetPrincipalName(), path+".authenticated.principal_name")}
	case *rbacv3.Principal_SourceIp:
		return v.address(authz.SourceIP, r.SourceIp, path+".source_ip") // deprecated, and still sent
	case *rbacv3.Principal_DirectRemoteIp:
		return v.address(authz.DirectRemoteIP, r.DirectRemoteIp, path+".direct_remote_ip")
	case *rbacv3.Principal_RemoteIp:
		return v.address(authz.RemoteIP, r.RemoteIp, path+".remote_ip")
	case *rbacv3.Principal_Header:
		return authz.Condition{Kind: authz.Header, Header: v.header(r.Header, path+".header")}
	case *rbacv3.Principal_UrlPath:
		return authz.Condition{Kind: authz.Path, String: v.text(r.UrlPath.GetPath(), path+".url_path.path")}
	}
	v.report.refuse(path, "principal is not supported")
	return never()
}

func (v *conv) anything(yes bool, path string) authz.Condition {
	if !yes {
		v.report.invalid(join(path, "any"), "must be true (validation rule of the API)")
		return never()
	}
	return authz.Condition{Kind: authz.Any}
}

func (v *conv) address(kind authz.Kind, r *corev3.CidrRange, path string) authz.Condition {
	p, ok := v.prefix(r, path)
	if !ok {
		p = netip.Prefix{}
	}
	return authz.Condition{Kind: kind, Prefix: p}
}

func (v *conv) template(e *corev3.TypedExtensionConfig, path string) authz.Condition {
	t, ok := v.unpacked[e.GetTypedConfig()].(*templatev3.UriTemplateMatchConfig)
	if !ok {
		v.report.refuse(path, "only URI templates are supported")
		return never()
	}
	compiled, err := match.NewTemplate(t.GetPathTemplate())
	if err != nil {
		v.report.invalid(path+".typed_config.path_template", err.Error())
	}
	return authz.Condition{Kind: authz.Template, Template: compiled}
}
