package apis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/schema"
)

// verdict is what find says about an apiVersion and kind: a kind that is read, an error (message set), or neither: not ours.
type verdict struct {
	kind    *kind
	path    string // the field at fault
	message string
	hint    string
}

func nearest(name string, known []string) string { return schema.Nearest(name, known) }

// find looks a kind up. Unknown kinds and versions of the groups that are read are errors, and so are near misses of the groups.
func (d *decoder) find(group, version, name string) verdict {
	var names, groups []string
	var elsewhere *kind
	for i := range d.kinds {
		k := &d.kinds[i]
		switch {
		case k.group == group && k.name == name:
			if slices.Contains(k.versions, version) {
				return verdict{kind: k}
			}
			return verdict{path: "apiVersion", message: fmt.Sprintf("%s has no version %q of %s", groupName(group), version, name),
				hint: "use " + strings.Join(apiVersions(k), " or ")}
		case k.name == name && k.istio():
			elsewhere = k
		}
		if k.group == group {
			names = append(names, k.name)
		}
		if k.group != "" && !slices.Contains(groups, k.group) {
			groups = append(groups, k.group)
		}
	}
	near := nearest(name, names)
	ours := strings.HasSuffix(group, ".istio.io") && group != "install.istio.io" || group == groupGateway
	switch {
	case elsewhere != nil && (ours || group == ""):
		return verdict{path: "apiVersion", message: fmt.Sprintf("%s has no kind %s", groupName(group), name), hint: "use apiVersion " + apiVersions(elsewhere)[0]}
	case near != "" && (ours || len(names) > 0):
		return verdict{path: "kind", message: fmt.Sprintf("%s has no kind %q", groupName(group), name), hint: fmt.Sprintf("did you mean %q?", near)}
	case ours && len(names) > 0:
		return verdict{path: "kind", message: fmt.Sprintf("%s has no kind %q", groupName(group), name), hint: "it has " + strings.Join(names, ", ")}
	case ours:
		return verdict{path: "apiVersion", message: fmt.Sprintf("Istio has no API group %q", group), hint: "its groups are " + strings.Join(groups[:4], ", ")}
	case len(names) == 0 && schema.Near(group, groups):
		return verdict{path: "apiVersion", message: fmt.Sprintf("unknown API group %q", group), hint: fmt.Sprintf("did you mean %q?", nearest(group, groups))}
	}
	return verdict{}
}

func groupName(group string) string {
	if group == "" {
		return "Kubernetes' core group"
	}
	return group
}

func apiVersions(k *kind) []string {
	var all []string
	for _, v := range k.versions {
		if k.group != "" {
			v = k.group + "/" + v
		}
		all = append(all, v)
	}
	return all
}
