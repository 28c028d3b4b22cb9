package compile

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tullemesh/tulle/internal/match"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
)

// routeTimeout is Envoy's default of RouteAction.timeout.
const routeTimeout = 15 * time.Second

// override is a duration in place of another one, if it is there: an explicit 0 is no bound.
func (v *conv) override(d *durationpb.Duration, path string) time.Duration {
	if got := v.duration(d, 0, path); got > 0 || d == nil {
		return got
	}
	return router.NoBound
}

func (v *conv) forward(m *routev3.RouteAction, path string) *router.Forward {
	f := &router.Forward{
		Timeout:           v.duration(m.GetTimeout(), routeTimeout, join(path, "timeout")),
		IdleTimeout:       v.override(m.GetIdleTimeout(), join(path, "idle_timeout")),
		PrefixRewrite:     m.GetPrefixRewrite(),
		MaxStreamDuration: v.override(m.GetMaxStreamDuration().GetMaxStreamDuration(), join(path, "max_stream_duration")),
		ClusterNotFound:   http.StatusServiceUnavailable,

		AppendForwardedHost: m.GetAppendXForwardedHost(),
	}
	switch m.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_SERVICE_UNAVAILABLE:
	case routev3.RouteAction_NOT_FOUND:
		f.ClusterNotFound = http.StatusNotFound
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		f.ClusterNotFound = http.StatusInternalServerError
	default:
		v.report.invalid(join(path, "cluster_not_found_response_code"), "no such code")
	}
	f.RegexRewrite, f.RegexSubst = v.regexRewrite(m.GetRegexRewrite(), join(path, "regex_rewrite"))
	if f.RegexRewrite != nil && f.PrefixRewrite != "" {
		v.report.invalid(path, "prefix_rewrite and regex_rewrite exclude one another")
	}
	v.clusters(f, m, path)
	switch h := m.GetHostRewriteSpecifier().(type) {
	case nil:
	case *routev3.RouteAction_HostRewriteLiteral:
		f.HostRewrite = h.HostRewriteLiteral
	case *routev3.RouteAction_AutoHostRewrite:
		f.AutoHostRewrite = h.AutoHostRewrite.GetValue()
		if f.AppendForwardedHost {
			v.report.refuse(join(path, "append_x_forwarded_host"), "not with auto_host_rewrite")
		}
	default:
		v.report.refuse(path, "this rewrite of the host is not supported")
	}
	f.Retry = v.retry(m.GetRetryPolicy(), join(path, "retry_policy"))
	for _, u := range m.GetUpgradeConfigs() {
		if u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			f.Upgrades = append(f.Upgrades, strings.ToLower(u.GetUpgradeType()))
		}
	}
	return f
}

func (v *conv) clusters(f *router.Forward, m *routev3.RouteAction, path string) {
	switch s := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		f.Clusters, f.TotalWeight = []router.Weighted{{Cluster: s.Cluster, Weight: 1}}, 1
	case *routev3.RouteAction_ClusterHeader:
		f.ClusterHeader = strings.ToLower(s.ClusterHeader)
	case *routev3.RouteAction_WeightedClusters:
		at := join(path, "weighted_clusters")
		var total uint64
		for i, c := range s.WeightedClusters.GetClusters() {
			f.Clusters = append(f.Clusters, v.weighted(c, fmt.Sprintf("%s.clusters[%d]", at, i)))
			total += uint64(c.GetWeight().GetValue())
		}
		f.TotalWeight = v.totalWeight(total, at)
		// deprecated, and checked when it is sent
		if want := s.WeightedClusters.GetTotalWeight(); want != nil && uint64(want.GetValue()) != total {
			v.report.invalid(join(at, "total_weight"), fmt.Sprintf("%d, but the weights add up to %d", want.GetValue(), total))
		}
	default:
		v.report.refuse(path, "a cluster, weighted clusters or a cluster header is needed")
	}
}

func (v *conv) weighted(m *routev3.WeightedCluster_ClusterWeight, path string) router.Weighted {
	return router.Weighted{
		Cluster: m.GetName(), Weight: m.GetWeight().GetValue(), HostRewrite: m.GetHostRewriteLiteral(),
		RequestHeaders:  v.headerOps(m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove(), join(path, "request_headers_to_add")),
		ResponseHeaders: v.headerOps(m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove(), join(path, "response_headers_to_add")),
		PerFilter:       v.perFilter(m.GetTypedPerFilterConfig(), join(path, "typed_per_filter_config")),
	}
}

// regexRewrite compiles a substitution; Envoy's \1 becomes Go's ${1}.
func (v *conv) regexRewrite(m *matcherv3.RegexMatchAndSubstitute, path string) (*regexp.Regexp, string) {
	if m == nil {
		return nil, ""
	}
	re, err := match.CompileSearch(m.GetPattern().GetRegex())
	if err != nil {
		v.report.invalid(join(path, "pattern.regex"), err.Error())
		return nil, ""
	}
	subst, err := goSubstitution(m.GetSubstitution(), re.NumSubexp())
	if err != nil {
		v.report.invalid(join(path, "substitution"), err.Error())
	}
	return re, subst
}

func goSubstitution(s string, groups int) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '$':
			b.WriteString("$$")
		case c != '\\':
			b.WriteByte(c)
		case i+1 < len(s) && s[i+1] == '\\':
			b.WriteByte('\\')
			i++
		case i+1 < len(s) && '0' <= s[i+1] && s[i+1] <= '9':
			if int(s[i+1]-'0') > groups {
				return "", fmt.Errorf("\\%c: the pattern has %d groups", s[i+1], groups)
			}
			b.WriteString("${" + s[i+1:i+2] + "}")
			i++
		default:
			return "", fmt.Errorf("a backslash needs a digit or a backslash after it in %q", s)
		}
	}
	return b.String(), nil
}

func (v *conv) headerOps(add []*corev3.HeaderValueOption, remove []string, path string) router.HeaderOps {
	var ops router.HeaderOps
	for _, name := range remove {
		name = strings.ToLower(name)
		if name == "" || name[0] == ':' || name == "host" {
			v.report.invalid(strings.Replace(path, "_to_add", "_to_remove", 1), fmt.Sprintf("header %q can't be removed", name))
		}
		ops.Remove = append(ops.Remove, name)
	}
	for i, o := range add {
		ops.Set = append(ops.Set, v.headerOp(o, fmt.Sprintf("%s[%d]", path, i)))
	}
	return ops
}

func (v *conv) headerOp(m *corev3.HeaderValueOption, path string) router.HeaderOp {
	op := router.HeaderOp{
		Name: strings.ToLower(m.GetHeader().GetKey()), Value: m.GetHeader().GetValue(),
		Action: router.HeaderAction(m.GetAppendAction()), KeepEmpty: m.GetKeepEmptyValue(),
	}
	if a := m.GetAppend(); a != nil && !a.GetValue() { // deprecated, and still sent
		op.Action = router.OverwriteOrAdd
	}
	if op.Name == "" || op.Name == "host" || strings.HasPrefix(op.Name, ":") {
		v.report.refuse(join(path, "header.key"), fmt.Sprintf("header %q can't be set; rewrite the host or the path instead", op.Name))
	}
	if op.Action > router.OverwriteIfExists {
		v.report.invalid(join(path, "append_action"), "no such action")
	}
	parts, err := parseFormat(op.Value)
	if err != nil {
		v.report.refuse(join(path, "header.value"), err.Error())
	}
	op.Parts = parts
	return op
}
