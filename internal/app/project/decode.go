package project

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// effect is what every refusing problem of the file means: a project half started helps nobody.
const effect = "nothing of the project is started, or what runs already stays as it is"

// Decode reads tulle.yaml. Problems are all of the file, sorted by place; the project is nil when one of them refuses it.
func Decode(file string, data []byte) (*Project, []problem.Problem) {
	d := &decoder{file: file}
	docs, problems := document.Parse(data)
	for _, doc := range docs {
		problems = append(problems, doc.Problems...)
	}
	for _, p := range problems {
		p.Position.File, p.Effect = file, effect
		d.problems = append(d.problems, p)
	}
	var p *Project
	switch {
	case len(docs) == 0 && len(problems) == 0:
		d.report("", document.Place{Line: 1, Column: 1}, problem.CodeNotObject, "the file says nothing", "write at least  services: {web: {port: 8080, run: ./web}}")
	case len(docs) > 1:
		second := document.Place{Line: 1, Column: 1}
		if docs[1].Root != nil {
			second = docs[1].Root.Place()
		}
		d.report("", second, problem.CodeNotObject, "a project is one document, here is a second", "move the other documents to files of their own beside "+FileName)
	case len(docs) == 1 && docs[0].Root != nil:
		p = d.project(docs[0].Root)
	}
	problem.Sort(d.problems)
	if len(d.problems) > limit.FileProblemsMax {
		d.problems = d.problems[:limit.FileProblemsMax]
	}
	if slices.ContainsFunc(d.problems, problem.Problem.Refuses) {
		return nil, d.problems
	}
	return p, d.problems
}

func (d *decoder) project(root *document.Node) *Project {
	p := &Project{Capture: CaptureProxy, Name: "project"}
	f := d.mapping(root, "", "name", "services", "gateway", "capture")
	if n := f["name"]; n != nil {
		p.Name = d.label(n, "name", p.Name)
	}
	p.Capture = d.capture(f["capture"], "capture", p.Capture)
	if g := f["gateway"]; g != nil {
		gf := d.mapping(g, "gateway", "ports")
		for i, n := range d.list(gf["ports"], "gateway.ports") {
			number := d.port(n, document.Index("gateway.ports", i))
			if slices.Contains(p.GatewayPorts, number) {
				d.at(n, document.Index("gateway.ports", i), fmt.Sprintf("port %d is written twice", number), "remove one of them")
			}
			p.GatewayPorts = append(p.GatewayPorts, number)
		}
	}
	services := f["services"]
	if services == nil || services.Kind != document.Map || len(services.Fields) == 0 {
		at := root
		if services != nil {
			at = services
		}
		d.at(at, "services", "a project has at least one service", "services: {web: {port: 8080, run: ./web}}")
		return p
	}
	if len(services.Fields) > limit.ProjectServicesMax {
		d.at(services, "services", fmt.Sprintf("%d services, the limit is %d", len(services.Fields), limit.ProjectServicesMax), "split the project")
		return p
	}
	for _, s := range services.Fields {
		p.Services = append(p.Services, d.service(s, p.Capture))
	}
	d.uniqueWorkloads(p)
	return p
}

// uniqueWorkloads refuses names that two workloads share, such as version b-v1 of service a and version v1 of service a-b.
func (d *decoder) uniqueWorkloads(p *Project) {
	owner := map[string]*Service{}
	ws := p.Workloads()
	if len(ws) > limit.ProjectWorkloadsMax {
		d.report("services", document.Place{Line: 1, Column: 1}, problem.CodeLimit,
			fmt.Sprintf("%d workloads, the limit is %d", len(ws), limit.ProjectWorkloadsMax), "run fewer replicas")
	}
	for _, w := range ws {
		if first, taken := owner[w.Name]; taken {
			d.report(document.Join("services", w.Service.Name), document.Place{Line: w.Service.Position.Line, Column: w.Service.Position.Column}, problem.CodeProject,
				fmt.Sprintf("workload %q is also one of service %s in line %d", w.Name, first.Name, first.Position.Line), "rename a version")
		}
		owner[w.Name] = w.Service
	}
}

// versionFields may stand at a version and, as its default, at the service.
func versionFields() []string {
	return []string{"run", "attach", "replicas", "env", "labels", "ready", "publish", "capture", "cwd"}
}

func (d *decoder) service(field document.Field, capture Capture) Service {
	path := document.Join("services", field.Name)
	n := field.Value
	place := field.KeyPlace()
	s := Service{
		Name: field.Name, Namespace: "default", ServiceAccount: field.Name, Listen: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		Position: problem.Position{File: d.file, Line: place.Line, Column: place.Column},
	}
	if !isLabel(s.Name) {
		d.report(path, place, problem.CodeProject, fmt.Sprintf("service name %q is not a DNS label", s.Name), "at most 63 lower-case letters, digits and dashes, beginning with a letter")
	}
	f := d.mapping(n, path, slices.Concat([]string{"port", "ports", "protocol", "versions", "namespace", "serviceAccount", "external", "listen"}, versionFields())...)
	s.Namespace = d.label(f["namespace"], path+".namespace", s.Namespace)
	s.ServiceAccount = d.label(f["serviceAccount"], path+".serviceAccount", s.ServiceAccount)
	s.External = d.boolean(f["external"], path+".external")
	s.Ports = d.ports(n, f, path)
	base := Version{Name: DefaultVersion, Replicas: 1, Capture: capture}
	if s.External {
		base.Capture = CaptureNone
	}
	d.version(&base, f, path, s.Ports)
	s.Versions = []Version{base}
	if vs := f["versions"]; vs != nil {
		s.Versions = d.versions(vs, base, path+".versions", s.Ports)
	}
	if l := f["listen"]; l != nil {
		s.Listen = d.loopback(l, path+".listen", s.Listen)
	}
	d.checkService(&s, field, f)
	return s
}

// versions reads the versions of a service on top of what the service says for all of them.
func (d *decoder) versions(n *document.Node, base Version, path string, ports []Port) []Version {
	if n.Kind != document.Map || len(n.Fields) == 0 {
		d.at(n, path, "versions is a mapping with at least one version", "versions: {v1: {run: ./a}, v2: {run: ./b}}")
		return nil
	}
	if len(n.Fields) > limit.ProjectVersionsMax {
		d.at(n, path, fmt.Sprintf("%d versions, the limit is %d", len(n.Fields), limit.ProjectVersionsMax), "")
		return nil
	}
	var versions []Version
	for _, field := range n.Fields {
		v, vpath := base, document.Join(path, field.Name)
		v.Name = field.Name
		if !isLabel("v" + v.Name) { // may begin with a digit
			d.report(vpath, field.KeyPlace(), problem.CodeProject, fmt.Sprintf("version name %q is not a DNS label", v.Name), "lower-case letters, digits and dashes")
		}
		f := d.mapping(field.Value, vpath, versionFields()...)
		// A version that says how it starts is not also what its service says.
		if f["run"] != nil {
			v.Attach = nil
		}
		if f["attach"] != nil {
			v.Run = Command{}
		}
		d.version(&v, f, vpath, ports)
		versions = append(versions, v)
	}
	return versions
}

// checkService refuses combinations that cannot run.
func (d *decoder) checkService(s *Service, field document.Field, f map[string]*document.Node) {
	for i := range s.Versions {
		v := &s.Versions[i]
		path := document.Join("services", s.Name)
		at, starts := field.KeyPlace(), f["run"] != nil || f["attach"] != nil
		if vs := f["versions"]; vs != nil && vs.Kind == document.Map && i < len(vs.Fields) {
			own := vs.Fields[i]
			path, at = document.Join(path+".versions", v.Name), own.KeyPlace()
			starts = starts || own.Value.Lookup("run") != nil || own.Value.Lookup("attach") != nil
		}
		refuse := func(message, hint string) { d.report(path, at, problem.CodeProject, message, hint) }
		switch {
		case v.Run.Empty() && len(v.Attach) == 0:
			if starts {
				continue // what is written was refused already
			}
			refuse("neither run nor attach is set", `say how to start it,  run: ./`+s.Name+`,  or where it listens already,  attach: "127.0.0.1:7001"`)
		case !v.Run.Empty() && len(v.Attach) > 0:
			refuse("both run and attach are set", "a process is started or is there already; remove one of them")
		case len(v.Attach) > 0 && v.Replicas > 1:
			refuse("an attached process has no replicas", "write one version, or service, for each address")
		case len(v.Attach) > 0 && v.Capture == CaptureNetns:
			refuse("a running process cannot be put into a namespace", "capture: proxy, or capture: none")
		case len(v.Publish) > 0 && v.Capture != CaptureNetns:
			refuse("publish is for capture netns: elsewhere the ports are the host's own", "remove publish, or set capture: netns")
		case len(v.Publish) > 0 && v.Replicas > 1:
			refuse("several replicas cannot publish the same host port", "remove publish or replicas")
		case s.External && v.Capture != CaptureNone:
			refuse("an external service has no proxy", "remove capture, or external")
		}
	}
	if f["listen"] != nil && slices.ContainsFunc(s.Versions, func(v Version) bool { return v.Capture == CaptureNetns }) {
		d.at(f["listen"], document.Join("services", s.Name)+".listen", "in a namespace a process has an address of its own", "remove listen")
	}
}
