package project

import "slices"

// Transparent returns the project with capture netns for every workload that
// has a proxy and is started by us. What is attached keeps its capture: a
// process that runs already cannot be put into a namespace.
func (p *Project) Transparent() *Project {
	out := *p
	out.Services = slices.Clone(p.Services)
	for i := range out.Services {
		s := &out.Services[i]
		s.Versions = slices.Clone(s.Versions)
		for j := range s.Versions {
			if v := &s.Versions[j]; v.Capture == CaptureProxy && len(v.Attach) == 0 {
				v.Capture = CaptureNetns
			}
		}
	}
	return &out
}
