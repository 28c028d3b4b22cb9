package apis

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tullemesh/tulle/internal/apis/problem"
)

const portMax = 65535

// checkPorts refuses ports of Kubernetes objects that no socket can have, as
// the Kubernetes API server does: here nobody has checked them before.
func checkPorts(spec any) []Problem {
	var out []Problem
	check := func(port int32, path string, args ...any) {
		if port < 1 || port > portMax {
			out = append(out, Problem{Code: problem.CodeInvalid, Level: LevelError, Path: fmt.Sprintf(path, args...),
				Message: fmt.Sprintf("%d is no port", port), Hint: "ports are 1 to 65535"})
		}
	}
	switch o := spec.(type) {
	case *corev1.Service:
		for i, p := range o.Spec.Ports {
			check(p.Port, "spec.ports[%d].port", i)
			if p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0 {
				check(p.TargetPort.IntVal, "spec.ports[%d].targetPort", i)
			}
		}
	case *corev1.Pod:
		for i, c := range o.Spec.Containers {
			for j, p := range c.Ports {
				check(p.ContainerPort, "spec.containers[%d].ports[%d].containerPort", i, j)
			}
		}
	case *corev1.Endpoints: //nolint:staticcheck // deprecated, but still what old files hold
		for i, s := range o.Subsets {
			for j, p := range s.Ports {
				check(p.Port, "subsets[%d].ports[%d].port", i, j)
			}
		}
	case *discoveryv1.EndpointSlice:
		for i, p := range o.Ports {
			if p.Port != nil { // none: all ports
				check(*p.Port, "ports[%d].port", i)
			}
		}
	}
	return out
}
