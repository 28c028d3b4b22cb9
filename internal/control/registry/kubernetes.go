package registry

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tullemesh/tulle/internal/apis"
)

const annotationExportTo = "networking.istio.io/exportTo"

// contribution is what one object says of one service.
type contribution struct {
	service *Service
	object  *apis.Object
	// targets are the named target ports of a Kubernetes service, by port number.
	targets map[int]string
	// notReady: endpoints that are not ready serve too.
	notReady bool
}

// kubernetesService reads a Kubernetes Service.
func kubernetesService(o *apis.Object, spec *corev1.Service, opts Options) *contribution {
	s := &Service{
		Hostname: o.Key.Name + "." + o.Key.Namespace + ".svc." + opts.DomainSuffix,
		Name:     o.Key.Name, Namespace: o.Key.Namespace, Labels: o.Labels, Selector: spec.Spec.Selector,
		Created: o.Created, FromKubernetes: true, Cluster: opts.Cluster, Key: o.Key,
		ExportTo: exportToAnnotation(o.Annotations[annotationExportTo]),
	}
	c := &contribution{service: s, object: o, targets: map[int]string{}, notReady: spec.Spec.PublishNotReadyAddresses}
	switch {
	case spec.Spec.Type == corev1.ServiceTypeExternalName:
		s.Resolution, s.ExternalName, s.External = Alias, strings.TrimSuffix(spec.Spec.ExternalName, "."), true
	case spec.Spec.ClusterIP == corev1.ClusterIPNone:
		s.Resolution, s.Headless = Passthrough, true
	default:
		s.Addresses = clusterIPs(&spec.Spec)
	}
	for i := range spec.Spec.Ports {
		p := &spec.Spec.Ports[i]
		port := Port{Name: p.Name, Number: int(p.Port), Protocol: KubernetesProtocol(int(p.Port), p.Name, string(p.Protocol), p.AppProtocol)}
		switch {
		case p.TargetPort.StrVal != "":
			c.targets[port.Number] = p.TargetPort.StrVal
		case p.TargetPort.IntVal != 0:
			port.Target = int(p.TargetPort.IntVal)
		default:
			port.Target = port.Number
		}
		s.Ports = append(s.Ports, port)
	}
	return c
}

func clusterIPs(spec *corev1.ServiceSpec) []netip.Prefix {
	ips := spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{spec.ClusterIP}
	}
	var out []netip.Prefix
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		}
	}
	return out
}

func exportToAnnotation(s string) []string {
	if s == "" {
		return nil
	}
	out := strings.Split(s, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// address is one address of a slice, in our words.
type address struct {
	ips             []netip.Addr
	pod             string // name of the Pod behind it
	ready, draining bool
	zone            string
	path            string
}

// backing is one EndpointSlice or Endpoints subset.
type backing struct {
	key       apis.Key
	ports     map[string]int // port number by the service port's name
	addresses []address
}

// backingsOf reads an EndpointSlice or Endpoints; service is the name of the
// Kubernetes Service that it belongs to.
func backingsOf(o *apis.Object) (service string, out []backing) {
	switch spec := o.Spec.(type) {
	case *discoveryv1.EndpointSlice:
		if spec.AddressType == discoveryv1.AddressTypeFQDN {
			return "", nil
		}
		return o.Labels[discoveryv1.LabelServiceName], []backing{sliceBacking(o.Key, spec)}
	case *corev1.Endpoints: //nolint:staticcheck // deprecated, but still what old files hold
		for i := range spec.Subsets {
			out = append(out, subsetBacking(o.Key, i, &spec.Subsets[i]))
		}
		return o.Key.Name, out
	}
	return "", nil
}

func sliceBacking(key apis.Key, spec *discoveryv1.EndpointSlice) backing {
	b := backing{key: key, ports: map[string]int{}}
	for _, p := range spec.Ports {
		if p.Port != nil {
			b.ports[deref(p.Name)] = int(*p.Port)
		}
	}
	for i := range spec.Endpoints {
		e := &spec.Endpoints[i]
		// nil means ready; a terminating endpoint that still serves drains
		// (Kubernetes, EndpointConditions).
		terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
		serving := e.Conditions.Serving == nil || *e.Conditions.Serving
		a := address{
			ready:    e.Conditions.Ready == nil || *e.Conditions.Ready,
			draining: terminating && serving,
			zone:     deref(e.Zone),
			path:     "endpoints[" + strconv.Itoa(i) + "]",
		}
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			a.pod = e.TargetRef.Name
		}
		for _, ip := range e.Addresses {
			if a.ips = appendAddress(nil, ip); a.ips != nil {
				b.addresses = append(b.addresses, a)
			}
		}
	}
	return b
}

//nolint:staticcheck // deprecated, but still what old files hold
func subsetBacking(key apis.Key, n int, s *corev1.EndpointSubset) backing {
	b := backing{key: key, ports: map[string]int{}}
	for _, p := range s.Ports {
		b.ports[p.Name] = int(p.Port)
	}
	add := func(list []corev1.EndpointAddress, field string, ready bool) {
		for i := range list {
			a := address{ips: appendAddress(nil, list[i].IP), ready: ready, path: "subsets[" + strconv.Itoa(n) + "]." + field + "[" + strconv.Itoa(i) + "]"}
			if ref := list[i].TargetRef; ref != nil && ref.Kind == "Pod" {
				a.pod = ref.Name
			}
			if len(a.ips) > 0 {
				b.addresses = append(b.addresses, a)
			}
		}
	}
	add(s.Addresses, "addresses", true)
	add(s.NotReadyAddresses, "notReadyAddresses", false)
	return b
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
