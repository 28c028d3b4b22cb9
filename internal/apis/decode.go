package apis

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/ledger"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// Options are the choices of Decode.
type Options struct {
	DefaultNamespace string // of namespaced objects that name none; empty means "default"
}

// Result is what a file holds.
type Result struct {
	Objects  []*Object // in the order of the file, also refused ones
	Problems []Problem // all: of the file, of its documents, of its objects; sorted by place
}

// Decoder reads files. It holds the tables of kinds and fields, which cost more to build than a usual file costs to read. It is immutable, and
// safe for concurrent use.
type Decoder struct {
	kinds  []kind
	ledger *ledger.Ledger
}

// NewDecoder builds the tables.
func NewDecoder() *Decoder { return &Decoder{kinds: kinds(), ledger: ledger.New()} }

// Decode reads one file with tables of its own; see Decoder.Decode. Who reads many files keeps a Decoder.
func Decode(file string, data []byte, opts Options) Result {
	return NewDecoder().Decode(file, data, opts)
}

// Decode reads all objects of a file. It never fails as a whole: what can't be read is a problem with its place.
func (t *Decoder) Decode(file string, data []byte, opts Options) Result {
	if opts.DefaultNamespace == "" {
		opts.DefaultNamespace = "default"
	}
	d := decoder{Decoder: t, file: file, opts: opts, notRead: map[string]bool{}, seen: map[Key]*Object{}}
	docs, whole := document.Parse(data)
	for _, p := range whole {
		d.add(p, Key{}, "what could not be read counts as unchanged: last good versions stay")
	}
	for i := range docs {
		d.document(&docs[i])
	}
	return d.result()
}

// decoder reads one file.
type decoder struct {
	*Decoder
	file     string
	opts     Options
	objects  []*Object
	problems []Problem
	notRead  map[string]bool
	seen     map[Key]*Object
}

// add records a problem that belongs to no readable object.
func (d *decoder) add(p Problem, key Key, effect string) {
	p.Key, p.Effect, p.Position.File = key, effect, d.file
	d.problems = append(d.problems, p)
}

func (d *decoder) document(doc *document.Document) {
	if doc.Root == nil {
		key := peek(doc.Text, d.opts.DefaultNamespace)
		for _, p := range doc.Problems {
			d.add(p, key, "the document is skipped; what it defined keeps its last good version")
		}
		return
	}
	d.root(doc.Root, doc.Problems, 0)
}

// root decodes a tree that should be an object or a List of them. found are the document's own problems, such as duplicate keys.
func (d *decoder) root(root *document.Node, found []Problem, lists int) {
	skipped := "the document is skipped"
	reject := func(at document.Place, path, code, message, hint string) {
		d.add(Problem{Code: code, Level: LevelError, Path: path, Position: Position{Line: at.Line, Column: at.Column}, Length: at.Length,
			Message: message, Hint: hint}, keyOf(root, d.opts.DefaultNamespace), skipped)
		for _, p := range found {
			d.add(p, keyOf(root, d.opts.DefaultNamespace), skipped)
		}
	}
	if root.Kind != document.Map {
		reject(root.Place(), "", problem.CodeNotObject, "wants an object, found "+root.Kind.String(), "an object begins with apiVersion and kind")
		return
	}
	if foreign(root) {
		d.leave(root, "", "")
		return
	}
	for _, name := range []string{"apiVersion", "kind"} {
		switch v := root.Lookup(name); {
		case v == nil:
			reject(root.Place(), "", problem.CodeNotObject, "the object has no "+name, missingHint(root, name))
			return
		case v.Kind == document.String && v.Text == "":
			place, _ := root.Find(name)
			reject(place, name, problem.CodeType, name+" is empty", missingHint(root, name))
			return
		case v.Kind != document.String:
			place, _ := root.Find(name)
			reject(place, name, problem.CodeType, name+" wants text, found "+v.Kind.String(), "")
			return
		}
	}
	apiVersion, name := root.Lookup("apiVersion").Text, root.Lookup("kind").Text
	if items := root.Lookup("items"); strings.HasSuffix(name, "List") && items != nil && items.Kind == document.List {
		d.list(root, items, found, lists, reject)
		return
	}
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		group, version = "", apiVersion
	}
	verdict := d.find(group, version, name)
	switch {
	case verdict.kind != nil:
		d.object(verdict.kind, version, root, found)
	case group == groupGatewayX:
		place, _ := root.Find("kind")
		d.add(Problem{Code: problem.CodeKindUnsupported, Level: LevelUnsupported, Path: "kind", Position: Position{Line: place.Line, Column: place.Column},
			Length: place.Length, Message: name + " is an experiment of the Gateway API, which is not enforced", Hint: "use Istio's Gateway and VirtualService"},
			keyOf(root, d.opts.DefaultNamespace), "the object counts as absent")
	case verdict.message != "":
		place, _ := root.Find(verdict.path)
		reject(place, verdict.path, problem.CodeUnknownKind, verdict.message, verdict.hint)
	default:
		d.leave(root, apiVersion, name)
	}
}

// foreign reports whether a mapping is no object at all, such as a compose file beside the objects.
func foreign(root *document.Node) bool {
	for _, f := range root.Fields {
		if nearest(f.Name, []string{"apiVersion", "kind", "metadata", "spec"}) != "" {
			return false
		}
	}
	return true
}

// missingHint says what to add for an object without apiVersion or kind.
func missingHint(root *document.Node, name string) string {
	var names []string
	for _, f := range root.Fields {
		names = append(names, f.Name)
	}
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("%q should be %q", near, name)
	}
	if name == "apiVersion" {
		return "add apiVersion, such as networking.istio.io/v1"
	}
	return "add kind, such as VirtualService"
}

// list flattens a Kubernetes List.
func (d *decoder) list(root, items *document.Node, found []Problem, lists int, reject func(document.Place, string, string, string, string)) {
	if lists == limit.ListDepthMax {
		reject(root.Place(), "", problem.CodeLimit, fmt.Sprintf("Lists nested deeper than %d", limit.ListDepthMax), "")
		return
	}
	for _, item := range items.Items {
		d.root(item, within(item, items, found), lists+1)
	}
}

// within are the problems that stand inside an item of a list: from its line to the next item's.
func within(item, items *document.Node, found []Problem) []Problem {
	end := 0
	for _, other := range items.Items {
		if other.Line > item.Line && (end == 0 || other.Line < end) {
			end = other.Line
		}
	}
	var inside []Problem
	for _, p := range found {
		if p.Position.Line >= item.Line && (end == 0 || p.Position.Line < end) {
			inside = append(inside, p)
		}
	}
	return inside
}

// leave notes a kind that a mesh does not read, once a file.
func (d *decoder) leave(root *document.Node, apiVersion, name string) {
	if d.notRead[apiVersion+"/"+name] {
		return
	}
	d.notRead[apiVersion+"/"+name] = true
	place, _ := root.Find("kind")
	message := fmt.Sprintf("%s %s is not read: a mesh has no use for it", apiVersion, name)
	if name == "" {
		message = "the document is not read: it is no Kubernetes object"
	}
	d.add(Problem{Code: problem.CodeNotRead, Level: LevelInfo, Position: Position{Line: place.Line, Column: place.Column}, Length: place.Length,
		Message: message}, keyOf(root, d.opts.DefaultNamespace), "none")
}

// result sorts, and bounds what one file may say.
func (d *decoder) result() Result {
	r := Result{Objects: d.objects, Problems: d.problems}
	for _, o := range d.objects {
		r.Problems = append(r.Problems, o.Problems...)
	}
	problem.Sort(r.Problems)
	if n := len(r.Problems); n > limit.FileProblemsMax {
		last := r.Problems[limit.FileProblemsMax-1].Position
		r.Problems = append(r.Problems[:limit.FileProblemsMax:limit.FileProblemsMax], Problem{Code: problem.CodeMore, Level: LevelInfo, Position: last,
			Message: fmt.Sprintf("%d more problems of this file are not shown", n-limit.FileProblemsMax), Effect: "they refuse their objects all the same"})
	}
	return r
}

// keyOf names an object as far as its tree can be read.
func keyOf(root *document.Node, namespace string) Key {
	text := func(n *document.Node) string {
		if n == nil || n.Kind != document.String {
			return ""
		}
		return n.Text
	}
	meta := root.Lookup("metadata")
	k := Key{Kind: text(root.Lookup("kind")), Namespace: text(meta.Lookup("namespace")), Name: text(meta.Lookup("name"))}
	if k.Namespace == "" && k.Kind != "" {
		k.Namespace = namespace
	}
	return k
}

// What peek looks for: block style at the usual places, and flow style or JSON.
var (
	peekKind      = regexp.MustCompile(`(?m)(?:^|[{,]\s*|^\s*)"?kind"?\s*:\s*["']?([A-Za-z]+)`)
	peekMetadata  = regexp.MustCompile(`(?m)^metadata:[ \t]*(?:#.*)?\r?\n((?:(?:[ \t]+.*)?\r?\n)*(?:[ \t]+.*)?)`)
	peekName      = regexp.MustCompile(`(?m)^[ \t]{1,8}name:[ \t]*["']?([A-Za-z0-9.-]+)`)
	peekNamespace = regexp.MustCompile(`(?m)^[ \t]{1,8}namespace:[ \t]*["']?([A-Za-z0-9.-]+)`)
	flowName      = regexp.MustCompile(`metadata"?\s*:\s*\{[^{}]*?\bname"?\s*:\s*["']?([A-Za-z0-9.-]+)`)
	flowNamespace = regexp.MustCompile(`metadata"?\s*:\s*\{[^{}]*?\bnamespace"?\s*:\s*["']?([A-Za-z0-9.-]+)`)
)

// peek guesses which object a broken document is about, for the message only.
func peek(text, namespace string) Key {
	const bytesMax = 64 << 10 // the name stands at the top
	text = text[:min(len(text), bytesMax)]
	first := func(re *regexp.Regexp, s string) string {
		if m := re.FindStringSubmatch(s); m != nil {
			return m[1]
		}
		return ""
	}
	k := Key{Kind: first(peekKind, text)}
	if k.Kind == "" {
		return Key{}
	}
	meta := first(peekMetadata, text)
	k.Name = cmp.Or(first(peekName, meta), first(flowName, text))
	k.Namespace = cmp.Or(first(peekNamespace, meta), first(flowNamespace, text))
	if k.Namespace == "" {
		k.Namespace = namespace
	}
	return k
}
