package project

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// tlsModeLabel tells Istio's control plane whether an endpoint speaks mutual TLS.
const tlsModeLabel = "security.istio.io/tlsMode"

// Process is a process to start.
type Process struct {
	Workload Workload
	// Dir is absolute.
	Dir string
	// Address is where its ports are.
	Address Address
}

// object, and what follows, are the parts of Kubernetes' and Istio's objects that a project means, in the order they are written.
type object struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       any      `yaml:"spec,omitempty"`
}

type metadata struct {
	Name      string            `yaml:"name"`
	Namespace string            `yaml:"namespace"`
	Labels    map[string]string `yaml:"labels,omitempty"`
}

type serviceSpec struct {
	Selector map[string]string `yaml:"selector"`
	Ports    []servicePort     `yaml:"ports"`
}

type servicePort struct {
	Name string `yaml:"name"`
	Port uint16 `yaml:"port"`
}

type entrySpec struct {
	Address        string            `yaml:"address"`
	Ports          map[string]uint16 `yaml:"ports"`
	Labels         map[string]string `yaml:"labels"`
	ServiceAccount string            `yaml:"serviceAccount,omitempty"`
}

// Compile turns a project into ordinary objects, as YAML text, and into the processes to start. The folder dir is the project's;
// addresses come from Assign. Equal input gives equal text.
func Compile(p *Project, dir string, addresses map[string]Address) ([]byte, []Process, error) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Compiled from %s of project %s. Change that file, not this text.\n", FileName, p.Name)
	accounts := map[[2]string]bool{} // namespace, name
	for i := range p.Services {
		s := &p.Services[i]
		if s.External {
			continue
		}
		meta := metadata{Name: s.Name, Namespace: s.Namespace, Labels: map[string]string{"app": s.Name}}
		spec := serviceSpec{Selector: map[string]string{"app": s.Name}}
		for _, port := range s.Ports {
			spec.Ports = append(spec.Ports, servicePort{Name: port.Name, Port: port.Number})
		}
		if err := write(&text, s, object{APIVersion: "v1", Kind: "Service", Metadata: meta, Spec: spec}); err != nil {
			return nil, nil, err
		}
		account := [2]string{s.Namespace, s.ServiceAccount}
		if accounts[account] {
			continue
		}
		accounts[account] = true
		if err := write(&text, s, object{APIVersion: "v1", Kind: "ServiceAccount", Metadata: metadata{Name: s.ServiceAccount, Namespace: s.Namespace}}); err != nil {
			return nil, nil, err
		}
	}
	var processes []Process
	for _, w := range p.Workloads() {
		a, ok := addresses[w.Name]
		if !ok {
			return nil, nil, fmt.Errorf("workload %s has no address", w.Name)
		}
		if err := write(&text, w.Service, entry(w, a)); err != nil {
			return nil, nil, err
		}
		if w.Version.Run.Empty() {
			continue
		}
		processes = append(processes, Process{Workload: w, Dir: resolve(dir, w.Version.Dir), Address: a})
	}
	return text.Bytes(), processes, nil
}

// entry is the WorkloadEntry of a workload.
func entry(w Workload, a Address) object {
	labels := map[string]string{"app": w.Service.Name, "version": w.Version.Name}
	maps.Copy(labels, w.Version.Labels)
	spec := entrySpec{Address: a.IP.String(), Ports: a.Ports, Labels: labels}
	if w.Meshed() {
		labels[tlsModeLabel], spec.ServiceAccount = "istio", w.Service.ServiceAccount
	} else {
		labels[tlsModeLabel] = "disabled"
	}
	return object{
		APIVersion: "networking.istio.io/v1", Kind: "WorkloadEntry",
		Metadata: metadata{Name: w.Name, Namespace: w.Service.Namespace, Labels: labels}, Spec: spec,
	}
}

// write appends one document, with the place in tulle.yaml that it comes from.
func write(text *bytes.Buffer, s *Service, o object) error {
	fmt.Fprintf(text, "---\n# %s:%d\n", FileName, s.Position.Line)
	enc := yaml.NewEncoder(text)
	enc.SetIndent(2)
	if err := enc.Encode(o); err != nil {
		return fmt.Errorf("write %s %s: %w", o.Kind, o.Metadata.Name, err)
	}
	return enc.Close()
}

func resolve(dir, written string) string {
	if filepath.IsAbs(written) {
		return written
	}
	return filepath.Join(dir, written)
}

// Variables are what every process gets besides its capture's environment: PORT (the first port), PORT_<NAME> of each, and HOST, where
// to listen: the loopback address of the service, or every address of its namespace.
func (p Process) Variables() map[string]string {
	vars := map[string]string{"HOST": p.Workload.Service.Listen.String()}
	if p.Workload.Version.Capture == CaptureNetns {
		vars["HOST"] = "0.0.0.0"
	}
	for i, port := range p.Workload.Service.Ports {
		number := strconv.Itoa(int(p.Address.App[port.Name].Port()))
		if i == 0 {
			vars["PORT"] = number
		}
		vars["PORT_"+strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_"))] = number
	}
	return vars
}

// Command returns the words to run and the whole environment: base (NAME=value, such as that of the caller), over it the mesh's
// variables, over them those of the project, in which the mesh's are replaced ($PORT, ${PORT}; other variables stay as written).
// A list of words is replaced alike; a line is left to the shell.
func (p Process) Command(base []string, mesh map[string]string) (words, env []string) {
	merged := map[string]string{}
	for _, b := range base {
		if name, value, ok := strings.Cut(b, "="); ok {
			merged[name] = value
		}
	}
	maps.Copy(merged, mesh)
	for name, value := range p.Workload.Version.Env {
		merged[name] = expand(value, mesh)
	}
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		env = append(env, name+"="+merged[name])
	}
	run := p.Workload.Version.Run
	if run.Shell != "" {
		return []string{"/bin/sh", "-c", run.Shell}, env
	}
	for _, w := range run.Words {
		words = append(words, expand(w, merged))
	}
	return words, env
}

// expand replaces $NAME and ${NAME} by the variables that there are, and leaves everything else as written.
func expand(s string, vars map[string]string) string {
	return regexp.MustCompile(`\$(?:\w+|\{\w+\})`).ReplaceAllStringFunc(s, func(ref string) string {
		if v, ok := vars[strings.Trim(ref, "${}")]; ok {
			return v
		}
		return ref
	})
}
