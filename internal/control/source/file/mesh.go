package file

import (
	"bytes"
	"slices"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/control/registry"
)

// keepGood decodes a mesh configuration. One with errors is not taken when
// there is an older one without.
func keepGood(old *registry.MeshConfig, file string, text []byte) (*registry.MeshConfig, []apis.Problem) {
	config, problems := apis.DecodeMeshConfig(file, text)
	wrong := slices.ContainsFunc(problems, func(p apis.Problem) bool { return p.Level == apis.LevelError })
	if wrong && old != nil {
		for i := range problems {
			if problems[i].Level == apis.LevelError {
				problems[i].Effect = "the last good mesh configuration stays in force"
			}
		}
		return old, problems
	}
	return config, problems
}

// meshOf looks for Istio's ConfigMap "istio" with the key "mesh", as an
// installation has it, and puts its problems in the place of the remark that
// ConfigMaps are not read.
func meshOf(file string, text []byte, old *registry.MeshConfig, problems []apis.Problem) (*registry.MeshConfig, []apis.Problem) {
	if !bytes.Contains(text, []byte("ConfigMap")) || !bytes.Contains(text, []byte("mesh")) {
		return nil, problems
	}
	docs, _ := document.Parse(text)
	for i := range docs {
		root := docs[i].Root
		if root == nil || word(root.Lookup("kind")) != "ConfigMap" || word(root.Lookup("metadata").Lookup("name")) != "istio" {
			continue
		}
		mesh := root.Lookup("data").Lookup("mesh")
		if mesh == nil || mesh.Kind != document.String {
			continue
		}
		config, found := keepGood(old, file, []byte(mesh.Text))
		for j := range found {
			found[j].Position = outer(found[j].Position, mesh, text)
		}
		problems = slices.DeleteFunc(slices.Clone(problems), func(p apis.Problem) bool {
			return p.Level == apis.LevelInfo && p.Key.Kind == "ConfigMap" && p.Key.Name == "istio"
		})
		return config, append(problems, found...)
	}
	return nil, problems
}

func word(n *document.Node) string {
	if n == nil {
		return ""
	}
	return n.Text
}

// outer moves a position from within a block of text to the file around it:
// the block begins on the line after its key, indented.
func outer(p apis.Position, block *document.Node, text []byte) apis.Position {
	if !p.Known() {
		p.Line, p.Column = block.Line, block.Column
		return p
	}
	lines := bytes.Split(text, []byte("\n"))
	p.Line += block.Line
	if block.Line < len(lines) && p.Column > 0 {
		first := lines[block.Line]
		p.Column += len(first) - len(bytes.TrimLeft(first, " "))
	}
	return p
}
