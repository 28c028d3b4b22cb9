// Package project reads tulle.yaml, the file that says which processes of a project run or are already there, and compiles it to
// ordinary objects.
//
// In comes the file's text; out comes a Project with every problem of the file at its line and column (Decode), the workloads that it
// means (Project.Workloads), their ports (Assign) and at last Kubernetes Service, ServiceAccount and Istio WorkloadEntry objects as YAML
// together with the processes to start (Compile). So the control plane reads a project like any other configuration and knows nothing of
// this format. A Project is immutable and owns nothing; Assign alone touches the machine, to ask the kernel for ports.
// Read this file first, then decode.go and compile.go.
package project

import (
	"net/netip"
	"strconv"

	"github.com/tullemesh/tulle/internal/apis/problem"
)

// FileName is the name of a project's file.
const FileName = "tulle.yaml"

// DefaultVersion is the version of a service that names none.
const DefaultVersion = "v1"

// Capture says how a workload's traffic reaches its proxy.
type Capture string

// The captures. Proxy: by HTTP_PROXY and service variables, no privilege. Netns: a network namespace with redirection. None: no proxy.
const (
	CaptureProxy Capture = "proxy"
	CaptureNetns Capture = "netns"
	CaptureNone  Capture = "none"
)

// Project is what tulle.yaml says, with defaults applied and versions completed from their service.
type Project struct {
	// Name names the project's state and its screen.
	Name string
	// Services are in the order of the file.
	Services []Service
	// GatewayPorts are the host ports of the ingress gateway; none without a gateway.
	GatewayPorts []uint16
	// Capture is the default of all services.
	Capture Capture
}

// Service is one entry of services.
type Service struct {
	Name, Namespace, ServiceAccount string
	// Ports has at least one.
	Ports []Port
	// Versions has at least one.
	Versions []Version
	// External: the service is not the project's own. It gets no Service and no identity; a ServiceEntry selects its workloads.
	External bool
	// Listen is the loopback address that its processes listen on, when they run without a namespace.
	Listen netip.Addr
	// Position is where its name stands.
	Position problem.Position
}

// Port is one port of a service.
type Port struct {
	// Name is unique in the service and begins with the protocol, as Istio reads it.
	Name string
	// Number is what callers use.
	Number uint16
	// Protocol is one of protocols.
	Protocol string
}

// Version is one version of a service.
type Version struct {
	Name string
	// Run starts a process; it is empty when Attach is set, which names where each port (by name) of a running one listens.
	Run    Command
	Attach map[string]netip.AddrPort
	// Replicas is how many processes run, at least 1.
	Replicas int
	// Env is added to what the mesh sets, and wins over it. Variables of the mesh are replaced in its values, such as $PORT.
	Env map[string]string
	// Labels are those of the workload besides app and version.
	Labels map[string]string
	Ready  Ready
	// Publish makes ports of a workload in a namespace reachable from the host.
	Publish []Publish
	Capture Capture
	// Dir is where the process starts, as written; relative to the project's folder.
	Dir string
}

// Command is a line for the shell, or words that are run as they are. One of both is set.
type Command struct {
	Shell string
	Words []string
}

// Empty reports whether there is nothing to run.
func (c Command) Empty() bool { return c.Shell == "" && len(c.Words) == 0 }

// Ready says how to see that a process serves.
type Ready struct {
	// Path is requested by HTTP at the first port and answers below 400; empty: the port accepts connections.
	Path string
}

// Publish is a host port and the workload's port that it leads to.
type Publish struct {
	Host, Port uint16
}

// Workload is one process, or one address, of a service.
type Workload struct {
	// Name is unique in the project: service-version, and -replica when there is more than one.
	Name    string
	Service *Service
	Version *Version
	// Replica counts from 1.
	Replica int
}

// Workloads returns all workloads, in the order of the file.
func (p *Project) Workloads() []Workload {
	var ws []Workload
	for i := range p.Services {
		s := &p.Services[i]
		for j := range s.Versions {
			v := &s.Versions[j]
			for r := 1; r <= v.Replicas; r++ {
				w := Workload{Name: s.Name + "-" + v.Name, Service: s, Version: v, Replica: r}
				if v.Replicas > 1 {
					w.Name += "-" + strconv.Itoa(r)
				}
				ws = append(ws, w)
			}
		}
	}
	return ws
}

// Meshed reports whether the workload has a proxy.
func (w Workload) Meshed() bool { return w.Version.Capture != CaptureNone }

// protocols are Istio's names of port protocols that a port's name may begin with, as far as TCP carries them.
func protocols() []string {
	return []string{"http", "http2", "grpc", "grpc-web", "https", "tls", "tcp", "mongo", "mysql", "redis"}
}
