package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tullemesh/tulle/internal/proxy/engine/cluster"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/proxy/engine/tls"
)

// Problem is one reason why a resource is refused.
type Problem struct {
	// Path is the place within the resource, e.g.
	// "filter_chains[0].filters[1].typed_config.http_filters[2].typed_config".
	Path string
	// Message says what is wrong or what is not supported.
	Message string
	// Extension is the type name of the extension that is not supported, when
	// that is the reason.
	Extension string
	// Invalid: no proxy could run it; else it is ours to build.
	Invalid bool
}

// String is "path: message".
func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// Report is what compiling one resource found.
type Report struct {
	Problems []Problem
	// UnknownFields counts messages with fields that our protobuf definitions
	// don't have.
	UnknownFields int
}

// Refused reports whether the resource must not go live.
func (r *Report) Refused() bool { return len(r.Problems) > 0 }

// Error joins the problems, for a NACK.
func (r *Report) Error() string {
	r.sort()
	parts := make([]string, len(r.Problems))
	for i, p := range r.Problems {
		parts[i] = p.String()
	}
	return strings.Join(parts, "; ")
}

func (r *Report) refuse(path, message string) {
	r.Problems = append(r.Problems, Problem{Path: path, Message: message})
}

func (r *Report) invalid(path, message string) {
	r.Problems = append(r.Problems, Problem{Path: path, Message: message, Invalid: true})
}

// sort orders the problems by place: fields and maps are walked in no order.
func (r *Report) sort() {
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
}

// Compiler compiles resources. It is immutable and safe for any number of
// goroutines.
type Compiler struct{ surface *surface }

// New returns a compiler.
func New() *Compiler { return &Compiler{surface: newSurface()} }

// conv is the state of one resource's conversion.
type conv struct {
	checker
	// secrets collects inline certificates under synthetic names.
	secrets []*tls.Secret
	// owner begins the synthetic names of inline secrets.
	owner string
}

func (c *Compiler) begin(owner string, m proto.Message, report *Report) *conv {
	v := &conv{owner: owner, checker: checker{surface: c.surface, report: report, unpacked: map[*anypb.Any]proto.Message{}}}
	v.message(m.ProtoReflect(), "")
	report.sort()
	return v
}

// Listener compiles a listener. Inline certificates come back as secrets under
// names that begin with the listener's. The Spec is nil when the report refuses.
func (c *Compiler) Listener(m *listenerv3.Listener, hash string) (*listener.Matcher, []*tls.Secret, Report) {
	var report Report
	v := c.begin("listener/"+m.GetName(), m, &report)
	if report.Refused() {
		return nil, nil, report
	}
	spec := v.listener(m)
	spec.Hash = hash
	if report.Refused() {
		return nil, nil, report
	}
	matcher, err := listener.NewMatcher(spec)
	if err != nil {
		report.invalid("filter_chains", err.Error())
		return nil, nil, report
	}
	return matcher, v.secrets, report
}

// Route compiles a route configuration.
func (c *Compiler) Route(m *routev3.RouteConfiguration, hash string) (*router.Table, Report) {
	var report Report
	v := c.begin("route/"+m.GetName(), m, &report)
	if report.Refused() {
		return nil, report
	}
	t := v.table(m, "", hash)
	if report.Refused() {
		return nil, report
	}
	return t, report
}

// VirtualHost compiles a virtual host that came by VHDS.
func (c *Compiler) VirtualHost(m *routev3.VirtualHost) (*router.VirtualHost, Report) {
	var report Report
	v := c.begin("virtualhost/"+m.GetName(), m, &report)
	if report.Refused() {
		return nil, report
	}
	h := v.virtualHost(m, "", bodyBytesMax)
	if report.Refused() {
		return nil, report
	}
	return h, report
}

// Cluster compiles a cluster. Inline certificates come back as secrets.
func (c *Compiler) Cluster(m *clusterv3.Cluster, hash string) (*cluster.Spec, []*tls.Secret, Report) {
	var report Report
	v := c.begin("cluster/"+m.GetName(), m, &report)
	if report.Refused() {
		return nil, nil, report
	}
	spec := v.cluster(m)
	spec.Hash = hash
	if report.Refused() {
		return nil, nil, report
	}
	return spec, v.secrets, report
}

// Assignment compiles the endpoints of a cluster.
func (c *Compiler) Assignment(m *endpointv3.ClusterLoadAssignment, hash string) (*cluster.Assignment, Report) {
	var report Report
	v := c.begin("endpoints/"+m.GetClusterName(), m, &report)
	if report.Refused() {
		return nil, report
	}
	a := v.assignment(m, "", literalAddress)
	a.Hash = hash
	if report.Refused() {
		return nil, report
	}
	return a, report
}

// Secret compiles a secret.
func (c *Compiler) Secret(m *tlsv3.Secret, hash string) (*tls.Secret, Report) {
	var report Report
	v := c.begin("secret/"+m.GetName(), m, &report)
	if report.Refused() {
		return nil, report
	}
	s := v.secret(m)
	s.Hash = hash
	if report.Refused() {
		return nil, report
	}
	return s, report
}

// duration reads a duration, which is otherwise when it is not set.
func (v *conv) duration(d *durationpb.Duration, otherwise time.Duration, path string) time.Duration {
	if d == nil {
		return otherwise
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < 0 {
		v.report.invalid(path, fmt.Sprintf("duration %d.%09ds is negative or out of range", d.GetSeconds(), d.GetNanos()))
		return otherwise
	}
	return min(d.AsDuration(), forever) // times that are added to it must not overflow
}
