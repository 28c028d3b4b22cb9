package registry

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tullemesh/tulle/internal/apis"
)

// Labels and annotations that Istio reads.
const (
	labelTLSMode      = "security.istio.io/tlsMode"
	labelNetwork      = "topology.istio.io/network"
	labelLocality     = "topology.istio.io/locality"
	labelOldLocality  = "istio-locality"
	labelRegion       = "topology.kubernetes.io/region"
	labelZone         = "topology.kubernetes.io/zone"
	labelSubZone      = "topology.istio.io/subzone"
	labelWorkloadName = "service.istio.io/workload-name"
	labelTemplateHash = "pod-template-hash"
	annotationGroup   = "istio.io/autoRegistrationGroup"

	// TLSModeIstio and TLSModeDisabled are the values of Endpoint.TLSMode.
	TLSModeIstio    = "istio"
	TLSModeDisabled = "disabled"

	unixPrefix = "unix://"
)

// instance is a Workload with what only endpoints need to know of it.
type instance struct {
	*Workload
	host, pipe string // instead of addresses
	weight     uint32
	tlsMode    string
}

// dnsOnly reports whether only a ServiceEntry that resolves names, or for
// sockets one that is STATIC, can use the instance.
func (i *instance) dnsOnly() bool { return i.host != "" || i.pipe != "" }

func (i *instance) equal(o *instance) bool {
	return i.host == o.host && i.pipe == o.pipe && i.weight == o.weight && i.tlsMode == o.tlsMode && i.Workload.equal(o.Workload)
}

func (w *Workload) equal(o *Workload) bool {
	return w.Name == o.Name && w.Namespace == o.Namespace && w.Owner == o.Owner && slices.Equal(w.Addresses, o.Addresses) &&
		maps.Equal(w.Labels, o.Labels) && maps.Equal(w.Annotations, o.Annotations) && w.Account == o.Account &&
		w.Locality == o.Locality && w.Network == o.Network && w.Cluster == o.Cluster &&
		maps.Equal(w.Ports, o.Ports) && w.Ready == o.Ready && w.Key == o.Key
}

// template is what a Deployment or its like says of its Pods.
type template struct {
	labels      map[string]string
	annotations map[string]string
	account     string
	ports       map[string]int
}

// templateOf reads the pod template of a workload controller, nil for other objects.
func templateOf(o *apis.Object) *template {
	var t *corev1.PodTemplateSpec
	switch spec := o.Spec.(type) {
	case *appsv1.Deployment:
		t = &spec.Spec.Template
	case *appsv1.StatefulSet:
		t = &spec.Spec.Template
	case *appsv1.DaemonSet:
		t = &spec.Spec.Template
	case *appsv1.ReplicaSet:
		t = &spec.Spec.Template
	default:
		return nil
	}
	return &template{labels: t.Labels, annotations: t.Annotations, account: t.Spec.ServiceAccountName, ports: containerPorts(t.Spec.Containers)}
}

// instanceOf reads a Pod or a WorkloadEntry, nil for other objects and for Pods
// that have ended. A WorkloadEntry takes from the pod template of its name what
// it doesn't say itself.
func instanceOf(o *apis.Object, t *template, opts Options) *instance {
	switch spec := o.Spec.(type) {
	case *corev1.Pod:
		return podInstance(o, spec, opts)
	case *networking.WorkloadEntry:
		return entryInstance(o, spec, t, opts)
	}
	return nil
}

func podInstance(o *apis.Object, pod *corev1.Pod, opts Options) *instance {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	w := &Workload{
		Name: o.Key.Name, Namespace: o.Key.Namespace, Owner: podOwner(o.Key.Name, pod), Labels: o.Labels, Annotations: o.Annotations,
		Account: pod.Spec.ServiceAccountName, Locality: localityOf(o.Labels, ""), Network: o.Labels[labelNetwork], Cluster: opts.Cluster,
		Ports: containerPorts(pod.Spec.Containers), Ready: podReady(pod), Key: o.Key,
	}
	if w.Account == "" {
		w.Account = "default"
	}
	for _, ip := range pod.Status.PodIPs {
		w.Addresses = appendAddress(w.Addresses, ip.IP)
	}
	if len(w.Addresses) == 0 {
		w.Addresses = appendAddress(nil, pod.Status.PodIP)
	}
	return &instance{Workload: w, weight: 1, tlsMode: podTLSMode(o.Labels)}
}

// podTLSMode is "istio" only where the injector has said so: the label is on
// Pods that have a sidecar.
func podTLSMode(labels map[string]string) string {
	if labels[labelTLSMode] == TLSModeIstio {
		return TLSModeIstio
	}
	return TLSModeDisabled
}

// podReady is the Ready condition; a Pod without a status, as in files, counts as ready.
func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true
}

// podOwner is the name of the workload in telemetry: the controller's, a
// ReplicaSet's without its template hash.
func podOwner(name string, pod *corev1.Pod) string {
	if n := pod.Labels[labelWorkloadName]; n != "" {
		return n
	}
	for _, ref := range pod.OwnerReferences {
		if ref.Controller == nil || !*ref.Controller {
			continue
		}
		if hash := pod.Labels[labelTemplateHash]; ref.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(ref.Name, "-"+hash)
		}
		return ref.Name
	}
	return name
}

func entryInstance(o *apis.Object, e *networking.WorkloadEntry, t *template, opts Options) *instance {
	labels := map[string]string{}
	w := &Workload{Name: o.Key.Name, Namespace: o.Key.Namespace, Account: e.ServiceAccount, Annotations: o.Annotations, Cluster: opts.Cluster, Ready: true, Key: o.Key}
	ports := map[string]int{}
	if t != nil {
		maps.Copy(labels, t.labels)
		maps.Copy(ports, t.ports)
		if w.Account == "" {
			w.Account = t.account
		}
	}
	// Metadata wins over spec (Istio, WorkloadEntry.labels).
	maps.Copy(labels, e.Labels)
	maps.Copy(labels, o.Labels)
	for name, n := range e.Ports {
		ports[name] = int(n)
	}
	w.Labels, w.Ports = labels, ports
	w.Owner = entryOwner(o)
	w.Locality = localityOf(labels, e.Locality)
	w.Network = e.Network
	if w.Network == "" {
		w.Network = labels[labelNetwork]
	}
	i := &instance{Workload: w, weight: max(1, e.Weight), tlsMode: entryTLSMode(labels, w.Account)}
	i.setAddress(e.Address)
	return i
}

// setAddress reads WorkloadEntry.address: an IP, a socket "unix://PATH", or a name.
func (i *instance) setAddress(address string) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		i.pipe = path
		return
	}
	if a := appendAddress(nil, address); a != nil {
		i.Addresses = a
		return
	}
	i.host = address
}

// entryTLSMode follows Istio: the label, else "istio" when there is a service account.
func entryTLSMode(labels map[string]string, account string) string {
	if mode, ok := labels[labelTLSMode]; ok {
		return mode
	}
	if account != "" {
		return TLSModeIstio
	}
	return TLSModeDisabled
}

func entryOwner(o *apis.Object) string {
	if g := o.Annotations[annotationGroup]; g != "" {
		return g
	}
	if n := o.Labels[labelWorkloadName]; n != "" {
		return n
	}
	return o.Key.Name
}

// localityOf reads "region/zone/subzone", else the labels that say the same;
// in a label dots separate, because it cannot hold slashes.
func localityOf(labels map[string]string, locality string) Locality {
	if locality == "" {
		locality = cmp.Or(labels[labelLocality], labels[labelOldLocality])
		if !strings.Contains(locality, "/") {
			locality = strings.ReplaceAll(locality, ".", "/")
		}
	}
	if locality == "" {
		return Locality{Region: labels[labelRegion], Zone: labels[labelZone], SubZone: labels[labelSubZone]}
	}
	region, rest, _ := strings.Cut(locality, "/")
	zone, sub, _ := strings.Cut(rest, "/")
	return Locality{Region: region, Zone: zone, SubZone: sub}
}

func containerPorts(containers []corev1.Container) map[string]int {
	ports := map[string]int{}
	for i := range containers {
		for _, p := range containers[i].Ports {
			if p.Name != "" {
				ports[p.Name] = int(p.ContainerPort)
			}
		}
	}
	return ports
}

// appendAddress appends a parsed address; others are left out.
func appendAddress(to []netip.Addr, s string) []netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		return append(to, a.Unmap())
	}
	return to
}

// selects reports whether labels hold everything that the selector names. An
// empty selector selects nothing (Kubernetes Service) and must not come here.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
