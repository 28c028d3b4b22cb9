package app

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/app/project"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// projects reads the tulle.yaml of each folder among the files, and decodes the
// objects that it means, so that questions over a project's folder see the
// services that `up` would run. Ports are the services' own: nothing runs.
func projects(files []string, texts map[string][]byte) (registry.Input, error) {
	in := registry.Input{Source: "projects"}
	for _, dir := range files {
		path := filepath.Join(dir, project.FileName)
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err != nil && !isFolder(dir) {
			continue
		}
		if err != nil {
			return in, err
		}
		texts[path] = text
		p, problems := project.Decode(path, text)
		in.Problems = append(in.Problems, problems...)
		if p == nil || slices.ContainsFunc(problems, apis.Problem.Refuses) {
			continue
		}
		compiled, _, err := project.Compile(p, dir, asPlanned(p))
		if err != nil {
			return in, err
		}
		if len(p.GatewayPorts) > 0 {
			compiled = append(compiled, gatewayEntry(loopback())...)
		}
		name := path + " (compiled)"
		texts[name] = compiled
		result := apis.Decode(name, compiled, apis.Options{})
		in.Objects = append(in.Objects, result.Objects...)
		in.Problems = append(in.Problems, result.Problems...)
	}
	return in, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// asPlanned are the addresses of a project that does not run: each workload at
// its service's loopback address and ports.
func asPlanned(p *project.Project) map[string]project.Address {
	out := map[string]project.Address{}
	for _, w := range p.Workloads() {
		a := project.Address{IP: w.Service.Listen, Ports: map[string]uint16{}, App: map[string]netip.AddrPort{}}
		for _, port := range w.Service.Ports {
			a.Ports[port.Name] = port.Number
			a.App[port.Name] = netip.AddrPortFrom(w.Service.Listen, port.Number)
		}
		out[w.Name] = a
	}
	return out
}
