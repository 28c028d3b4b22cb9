package document

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// converter builds Nodes from the parser's tree, once per anchor.
type converter struct {
	lineBase   int
	building   map[*yaml.Node]bool
	built      map[*yaml.Node]*Node
	aliasNodes int
	problems   []problem.Problem
	broken     bool // no tree: a limit is passed, or an alias has no end
}

func (v *converter) fail(y *yaml.Node, code, message, hint string) {
	v.problems = append(v.problems, fault(v.lineBase+y.Line, y.Column, code, message, hint))
}

// give up: what was read so far must not be used.
func (v *converter) giveUp(y *yaml.Node, message string) *Node {
	if !v.broken {
		v.fail(y, problem.CodeLimit, message, "")
	}
	v.broken = true
	return &Node{weight: 1}
}

// node converts y, which stands at the given depth.
func (v *converter) node(y *yaml.Node, depth int) *Node {
	if v.broken {
		return &Node{weight: 1}
	}
	if depth > limit.DocumentDepthMax {
		return v.giveUp(y, fmt.Sprintf("nested deeper than %d levels", limit.DocumentDepthMax))
	}
	if y.Kind == yaml.AliasNode {
		return v.alias(y, depth)
	}
	v.building[y] = true
	defer delete(v.building, y)
	n := &Node{Line: v.lineBase + y.Line, Column: y.Column, weight: 1}
	switch y.Kind {
	case yaml.MappingNode:
		n.Kind = Map
		v.fields(n, y, depth)
	case yaml.SequenceNode:
		n.Kind = List
		for _, item := range y.Content {
			c := v.node(item, depth+1)
			n.Items = append(n.Items, c)
			n.weight += c.weight
		}
	default:
		v.scalar(n, y)
	}
	if tag := y.ShortTag(); n.Kind >= List && tag != "!!map" && tag != "!!seq" {
		v.fail(y, problem.CodeSyntax, fmt.Sprintf("tag %s is not allowed", tag), "remove the tag")
	}
	if n.weight > limit.DocumentNodesMax {
		return v.giveUp(y, fmt.Sprintf("more than %d values in one document", limit.DocumentNodesMax))
	}
	if y.Anchor != "" {
		v.built[y] = n
	}
	return n
}

// alias follows a reference to an anchor, counting what it repeats.
func (v *converter) alias(y *yaml.Node, depth int) *Node {
	if v.building[y.Alias] {
		return v.giveUp(y, fmt.Sprintf("alias *%s stands inside its own anchor", y.Value))
	}
	n := v.built[y.Alias]
	if n == nil { // the parser resolves only anchors before the alias, and those are built
		n = v.node(y.Alias, depth)
	}
	v.aliasNodes += n.weight
	if v.aliasNodes > limit.AliasNodesMax {
		return v.giveUp(y, fmt.Sprintf("aliases repeat more than %d values", limit.AliasNodesMax))
	}
	if depth+height(n) > limit.DocumentDepthMax {
		return v.giveUp(y, fmt.Sprintf("nested deeper than %d levels", limit.DocumentDepthMax))
	}
	return n
}

// height is the number of levels below n. Its cost is bounded by AliasNodesMax, which the caller has just counted.
func height(n *Node) int {
	h := 0
	for _, item := range n.Items {
		h = max(h, 1+height(item))
	}
	for _, f := range n.Fields {
		h = max(h, 1+height(f.Value))
	}
	return h
}

// fields fills a mapping, merge keys last: a written key wins over a merged one (YAML merge key, yaml.org/type/merge).
func (v *converter) fields(n *Node, y *yaml.Node, depth int) {
	seen := make(map[string]Field, len(y.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			v.fail(key, problem.CodeSyntax, "a key must be text", "write a plain word before the colon")
			continue
		case key.ShortTag() == "!!merge":
			merges = append(merges, value)
			continue
		case key.ShortTag() == "!!null":
			v.fail(key, problem.CodeSyntax, "a key is missing before the colon", "")
			continue
		}
		f := Field{Name: key.Value, Line: v.lineBase + y.Content[i].Line, Column: y.Content[i].Column, Value: v.node(value, depth+1)}
		if first, twice := seen[f.Name]; twice {
			p := fault(f.Line, f.Column, problem.CodeDuplicateKey, fmt.Sprintf("key %q is written twice; the first is in line %d", f.Name, first.Line), "remove one of them")
			p.Length = f.KeyPlace().Length
			v.problems = append(v.problems, p)
			continue
		}
		seen[f.Name] = f
		n.Fields = append(n.Fields, f)
		n.weight += f.Value.weight
	}
	for _, m := range merges {
		v.merge(n, seen, m, depth)
	}
}

func (v *converter) merge(n *Node, seen map[string]Field, y *yaml.Node, depth int) {
	from := v.node(y, depth+1)
	sources := []*Node{from}
	if from.Kind == List {
		sources = from.Items
	}
	for _, s := range sources {
		if s.Kind != Map && !v.broken {
			v.fail(y, problem.CodeSyntax, "a merge key (<<) takes a mapping, found "+s.Kind.String(), "")
			return
		}
		for _, f := range s.Fields {
			if _, written := seen[f.Name]; !written {
				seen[f.Name] = f
				n.Fields = append(n.Fields, f)
				n.weight += f.Value.weight
			}
		}
	}
}

// scalar resolves a scalar as YAML 1.2's core schema does; yes, no, on and off stay text and are marked Plain.
func (v *converter) scalar(n *Node, y *yaml.Node) {
	n.Kind, n.Text = String, y.Value
	n.Plain = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch tag := y.ShortTag(); tag {
	case "!!null":
		n.Kind, n.Text = Null, ""
	case "!!bool":
		n.Kind, n.Text = Bool, strings.ToLower(y.Value)
	case "!!int":
		if len(y.Value) < 100 { // longer ones are no numbers that any field takes, and cost quadratic time
			if i, ok := new(big.Int).SetString(strings.ReplaceAll(y.Value, "_", ""), 0); ok {
				n.Kind, n.Text = Int, i.String()
				return
			}
		}
		v.float(n, y)
	case "!!float":
		v.float(n, y)
	case "!!str", "!!timestamp", "!!merge":
	default:
		v.fail(y, problem.CodeSyntax, fmt.Sprintf("tag %s is not allowed", tag), "remove the tag")
	}
}

func (v *converter) float(n *Node, y *yaml.Node) {
	f, err := strconv.ParseFloat(strings.ReplaceAll(y.Value, "_", ""), 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		v.fail(y, problem.CodeType, fmt.Sprintf("%q is not a number that can be used", y.Value), "write a finite number, or quote the text")
		return
	}
	n.Kind, n.Text = Float, strconv.FormatFloat(f, 'g', -1, 64)
}
