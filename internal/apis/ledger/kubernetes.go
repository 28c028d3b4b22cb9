package ledger

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Reasons that hold for many fields of Kubernetes' objects.
const (
	byKubelet    = "the business of scheduler and kubelet, which run the Pods"
	byController = "the business of the workload's controller"
	byKubeProxy  = "the business of kube-proxy and the load balancer, for traffic from outside of the mesh"
	byServer     = "the business of the API server"
	byNobody     = "Istio does not read it either"
	asIstio      = "as under Istio"
)

// podSpec lists what is read of Pods, below the place of their spec.
const podSpec = `
	serviceAccountName
	containers[]
	containers[].ports[]
	containers[].ports[].name
	containers[].ports[].containerPort
	hostNetwork ! false ! Istio gives such Pods no proxy; here the workload is treated like any other`

// The fields of a Pod, and of what stands in its containers, that others act on.
const (
	podElsewhere = `volumes[] initContainers[] ephemeralContainers[] restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy
		nodeSelector{} serviceAccount automountServiceAccountToken nodeName hostPID hostIPC shareProcessNamespace securityContext imagePullSecrets[]
		hostname subdomain affinity schedulerName tolerations[] hostAliases[] priorityClassName priority dnsConfig readinessGates[]
		runtimeClassName enableServiceLinks preemptionPolicy overhead{} topologySpreadConstraints[] setHostnameAsFQDN os hostUsers
		schedulingGates[] resourceClaims[] resources hostnameOverride schedulingGroup`
	containerElsewhere = `name image command[] args[] workingDir envFrom[] env[] resources resizePolicy[] restartPolicy restartPolicyRules[]
		volumeMounts[] volumeDevices[] livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath
		terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty`
	portElsewhere = `hostPort protocol hostIP`
)

// others are lines for fields, by name, that are inert for one reason.
func others(place, names, reason string) string {
	var b strings.Builder
	for _, name := range strings.Fields(names) {
		b.WriteString(place + name + " ~ " + reason + "\n")
	}
	return b.String()
}

func pod(place string) string {
	return under(strings.TrimSuffix(place, "."), podSpec) + others(place, podElsewhere, byKubelet) +
		others(place+"containers[].", containerElsewhere, byKubelet) + others(place+"containers[].ports[].", portElsewhere, byKubelet)
}

func kubernetesKinds() []*Kind {
	kinds := []*Kind{
		{Name: "Service", whole: corev1.Service{}, Entries: table(serviceFields)},
		{Name: "EndpointSlice", whole: discoveryv1.EndpointSlice{}, Entries: table(sliceFields)},
		{Name: "Endpoints", whole: corev1.Endpoints{}, Entries: table(endpointsFields)}, //nolint:staticcheck // deprecated, but still what old files hold
		{Name: "Namespace", whole: corev1.Namespace{}, Entries: table("spec ~ " + byServer)},
		{Name: "ServiceAccount", whole: corev1.ServiceAccount{}, Entries: table(others("", "secrets[] imagePullSecrets[] automountServiceAccountToken", byKubelet))},
		{Name: "Secret", whole: corev1.Secret{}, Entries: secretFields()},
		{Name: "Pod", whole: corev1.Pod{}, Entries: table("spec\n" + pod("spec.") + podStatus)},
	}
	for name, spec := range map[string]any{"Deployment": appsv1.Deployment{}, "StatefulSet": appsv1.StatefulSet{}, "DaemonSet": appsv1.DaemonSet{}, "ReplicaSet": appsv1.ReplicaSet{}} {
		lines := "spec\nspec.template\nspec.template.metadata ~ labels and annotations are read like a Pod's\n" + pod("spec.template.spec.")
		own := reflect.TypeOf(spec)
		if f, ok := own.FieldByName("Spec"); ok {
			for _, child := range structChildren(f.Type, "spec") {
				if child.pattern != "spec.template" {
					lines += child.pattern + " ~ " + byController + "\n"
				}
			}
		}
		kinds = append(kinds, &Kind{Name: name, whole: spec, Entries: table(lines)})
	}
	return kinds
}

const serviceFields = `
	spec
	spec.ports[]
	spec.ports[].name
	spec.ports[].protocol
	spec.ports[].appProtocol
	spec.ports[].port
	spec.ports[].targetPort
	spec.ports[].nodePort ~ ` + byKubeProxy + `
	spec.selector{}
	spec.clusterIP
	spec.clusterIPs[]
	spec.type
	spec.externalName
	spec.publishNotReadyAddresses
	spec.externalIPs[] ! - ! calls to these addresses are not led to the Service's workloads
	spec.sessionAffinity ! None ! calls of a client go to any endpoint, ` + asIstio + `; a DestinationRule says what a mesh does
	spec.sessionAffinityConfig ~ only beside sessionAffinity: ClientIP, about which there is a warning
	spec.loadBalancerIP ~ ` + byKubeProxy + `
	spec.loadBalancerSourceRanges[] ! - ! a gateway lets in callers from everywhere: in a cluster its load balancer keeps them out, and here nothing does
	spec.externalTrafficPolicy ~ ` + byKubeProxy + `
	spec.healthCheckNodePort ~ ` + byKubeProxy + `
	spec.ipFamilies[] ~ clusterIPs says it
	spec.ipFamilyPolicy ~ clusterIPs says it
	spec.allocateLoadBalancerNodePorts ~ ` + byKubeProxy + `
	spec.loadBalancerClass ~ ` + byKubeProxy + `
	spec.internalTrafficPolicy ! Cluster ! calls go to endpoints of all nodes: which node a workload runs on is not known
	spec.trafficDistribution ! - ! calls go to endpoints of all zones alike
`

const sliceFields = `
	addressType
	endpoints[]
	endpoints[].addresses[]
	endpoints[].conditions
	endpoints[].conditions.ready
	endpoints[].conditions.serving
	endpoints[].conditions.terminating
	endpoints[].targetRef
	endpoints[].targetRef.kind
	endpoints[].targetRef.name
	endpoints[].targetRef.namespace ~ a slice is about Pods of its own namespace
	endpoints[].targetRef.uid ~ the name says it
	endpoints[].targetRef.apiVersion ~ the kind says it
	endpoints[].targetRef.resourceVersion ~ the name says it
	endpoints[].targetRef.fieldPath ~ the name says it
	endpoints[].zone
	endpoints[].hostname ~ ` + byNobody + `
	endpoints[].deprecatedTopology{} ~ ` + byNobody + `
	endpoints[].nodeName ~ ` + byNobody + `
	endpoints[].hints ~ ` + byNobody + `
	ports[]
	ports[].name
	ports[].port
	ports[].protocol ~ the Service's port says it
	ports[].appProtocol ~ the Service's port says it
`

const endpointsFields = `
	subsets[]
	subsets[].addresses[]
	subsets[].addresses[].ip
	subsets[].addresses[].hostname ~ ` + byNobody + `
	subsets[].addresses[].nodeName ~ ` + byNobody + `
	subsets[].addresses[].targetRef
	subsets[].notReadyAddresses[]
	subsets[].notReadyAddresses[].ip
	subsets[].notReadyAddresses[].hostname ~ ` + byNobody + `
	subsets[].notReadyAddresses[].nodeName ~ ` + byNobody + `
	subsets[].notReadyAddresses[].targetRef ~ read like that of addresses
	subsets[].ports[]
	subsets[].ports[].name
	subsets[].ports[].port
	subsets[].ports[].protocol ~ the Service's port says it
	subsets[].ports[].appProtocol ~ the Service's port says it
`

const podStatus = `
	status
	status.phase
	status.conditions[]
	status.podIP
	status.podIPs[]
`

func secretFields() map[string]Entry {
	entries := table(`
		data{}
		stringData{}
		type ~ the keys of data say what the Secret is for
		immutable ~ ` + byServer)
	for _, field := range []string{"data{}", "stringData{}"} {
		entries[field] = Entry{Test: "TestGolden"} // gateway-secret.txtar: secrets are given to who asks by name
	}
	return entries
}

// Shared reports whether the kind is Kubernetes' own: nothing that stands in its objects is refused for not being honoured.
func (k *Kind) Shared() bool { return k.whole != nil }

// structChild is a field of a Go struct with JSON tags.
type structChild struct {
	pattern string
	typ     reflect.Type
}

func structChildren(t reflect.Type, pattern string) []structChild {
	var out []structChild
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" && (options == "inline" || f.Anonymous) {
			out = append(out, structChildren(f.Type, pattern)...)
			continue
		}
		if pattern != "" {
			name = pattern + "." + name
		}
		typ := f.Type
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch {
		case typ.Kind() == reflect.Slice && typ.Elem().Kind() != reflect.Uint8:
			name, typ = name+"[]", typ.Elem()
		case typ.Kind() == reflect.Map:
			name, typ = name+"{}", typ.Elem()
		}
		out = append(out, structChild{name, typ})
	}
	return out
}

// structFields lists the fields of a Kubernetes object, below messages that are listed by their fields.
func (k *Kind) structFields(all []Field, t reflect.Type, pattern string) []Field {
	for _, child := range structChildren(t, pattern) {
		entry, known := k.Entries[child.pattern]
		switch child.pattern {
		case "apiVersion", "kind", "metadata":
			continue
		}
		if !known && strings.HasPrefix(child.pattern, "status") {
			continue // written by controllers, and not read
		}
		f := Field{Pattern: child.pattern, Entry: entry}
		if !known {
			f.Refused = k.Reason(child.pattern, child.pattern)
		}
		all = append(all, f)
		_, own := reflect.New(child.typ).Interface().(json.Unmarshaler)
		if child.typ.Kind() == reflect.Struct && !own && k.Holds(child.pattern) {
			all = k.structFields(all, child.typ, child.pattern)
		}
	}
	return all
}

// Tell lists what a Kubernetes object says that is not honoured. Such objects are shared with others, who may honour it, so that the rest of
// the object holds (docs/adr/0005).
func (l *Ledger) Tell(kind string, root *document.Node) []problem.Problem {
	var found []problem.Problem
	if k := l.kinds[kind]; k != nil && k.whole != nil {
		for pattern, entry := range k.Entries {
			if entry.Told != "" {
				found = told(found, root, strings.Split(pattern, "."), "", &entry)
			}
		}
	}
	found = l.tellMetadata(found, root.Lookup("metadata"), "metadata")
	return l.tellMetadata(found, root.Lookup("spec").Lookup("template").Lookup("metadata"), "spec.template.metadata")
}

// told follows a pattern through what is written.
func told(found []problem.Problem, n *document.Node, rest []string, path string, entry *Entry) []problem.Problem {
	name, list := strings.CutSuffix(rest[0], "[]")
	value := n.Lookup(name)
	if value == nil || value.Kind == document.Null {
		return found
	}
	path = document.Join(path, name)
	if len(rest) > 1 && list {
		for i, item := range value.Items {
			found = told(found, item, rest[1:], path+"["+strconv.Itoa(i)+"]", entry)
		}
		return found
	}
	if len(rest) > 1 {
		return told(found, value, rest[1:], path, entry)
	}
	if list && len(value.Items) == 0 || entry.harmless(value.Text) {
		return found
	}
	return append(found, notHonoured(path, name+" is not honoured: "+entry.Told))
}

// harmless reports whether a value asks for nothing that is not done.
func (e *Entry) harmless(value string) bool {
	for _, v := range e.Values {
		if v == value {
			return true
		}
	}
	return false
}

func notHonoured(path, message string) problem.Problem {
	return problem.Problem{Code: problem.CodeNotHonoured, Level: problem.Warning, Path: path, Message: message, Effect: "the object is used as if this were not written"}
}
