package document_test

import (
	"fmt"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// one parses a file of one sound document.
func one(t *testing.T, text string) *document.Node {
	t.Helper()
	docs, problems := document.Parse([]byte(text))
	if len(problems) > 0 || len(docs) != 1 || docs[0].Root == nil || len(docs[0].Problems) > 0 {
		t.Fatalf("%d documents, problems %v, %+v", len(docs), problems, docs)
	}
	return docs[0].Root
}

func TestPlacesAreThoseOfTheFile(t *testing.T) {
	for _, c := range []struct{ name, text, path, want string }{
		{"a scalar is its value", "a:\n  b: hello\n", "a.b", "2:6+5"},
		{"a quoted scalar has its quotes underlined", "a: \"x\"\n", "a", "1:4+3"},
		{"a mapping is its key", "a:\n  b:\n    c: 1\n", "a.b", "2:3+1"},
		{"an item of a list is itself", "a:\n- b: 1\n- b: 2\n", "a[1]", "3:3+1"},
		{"a field within an item", "a:\n- b: 1\n- b: 22\n", "a[1].b", "3:6+2"},
		{"what is not written is its ancestor", "a:\n  b: 1\n", "a.c.d[3].e", "1:1+1"},
		{"a key with dots is quoted", "a:\n  x.y/z: 1\n", `a["x.y/z"]`, "2:10+1"},
		{"snake case is found by camel case", "a:\n  some_field: 1\n", "a.someField", "2:15+1"},
		{"columns count characters", "a: {ü: ö, b: 1}\n", "a.b", "1:14+1"},
		{"a byte order mark has no column", "\uFEFFa: 1\n", "a", "1:4+1"},
		{"carriage returns are no characters", "a: 1\r\nb: 2\r\n", "b", "2:4+1"},
		{"JSON with tabs", "{\n\t\"a\": {\n\t\t\"b\": 1\n\t}\n}\n", "a.b", "3:8+1"},
		{"an alias is where its anchor is", "a: &x {b: 1}\nc: *x\n", "c.b", "1:11+1"},
		{"an index beyond the list is the list", "a: [1]\n", "a[7]", "1:1+1"},
		{"nonsense is the root", "a: 1\n", "[[[..", "1:1+1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := one(t, c.text).Find(c.path)
			if got := fmt.Sprintf("%d:%d+%d", p.Line, p.Column, p.Length); !ok || got != c.want {
				t.Errorf("%s is at %s, want %s", c.path, got, c.want)
			}
		})
	}
	var missing *document.Node
	if _, ok := missing.Find("a"); ok {
		t.Error("no tree has a place")
	}
}

func TestScalarsAreThoseOfYAMLsCoreSchema(t *testing.T) {
	for text, want := range map[string]string{
		"a": `"a"`, "'1'": `"1"`, "1": "1", "0x1F": "31", "0o17": "15", "1_000": "1000", "1.5": "1.5", "1e3": "1000", "true": "true", "True": "true", "yes": `"yes"`,
		"off": `"off"`, "null": "null", "~": "null", "": "null", "2026-01-02": `"2026-01-02"`, "1m30s": `"1m30s"`, "|\n  a\n  b\n": `"a\nb\n"`, "-0": "0", "18446744073709551615": "18446744073709551615",
		"{b: [1, x]}": `{"b":[1,"x"]}`, "\"\\u00e9\"": `"é"`,
	} {
		if got := string(one(t, "a: "+text+"\n").Lookup("a").AppendJSON(nil)); got != want {
			t.Errorf("%q reads as %s, want %s", text, got, want)
		}
	}
}

func TestDocumentsAreCutAtMarkers(t *testing.T) {
	const text = "# only a comment\n---\na: 1\n...\n%YAML 1.2\n--- {b: 2}\n---\n\n--- # c\nc: |\n  text\n  --- not a marker, indented\n---\n---x: 4\n"
	docs, problems := document.Parse([]byte(text))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var got []string
	for _, d := range docs {
		if d.Root == nil {
			t.Fatalf("%+v", d)
		}
		got = append(got, fmt.Sprintf("%d:%s", d.Root.Line, d.Root.AppendJSON(nil)))
	}
	want := `3:{"a":1} 6:{"b":2} 10:{"c":"text\n--- not a marker, indented\n"} 14:{"---x":4}`
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestMergedKeysYieldToWrittenOnes(t *testing.T) {
	n := one(t, "base: &b {x: 1, y: 1}\nmore: &m {y: 2, z: 2}\na:\n  x: 0\n  <<: [*b, *m]\nc:\n  <<: *m\n")
	if got, want := string(n.Lookup("a").AppendJSON(nil)), `{"x":0,"y":1,"z":2}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := string(n.Lookup("c").AppendJSON(nil)), `{"y":2,"z":2}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestHashesSeeContentOnly(t *testing.T) {
	sum := func(text string) uint64 {
		h := fnv.New64a()
		one(t, text).WriteHash(h)
		return h.Sum64()
	}
	base := sum("a: 1\nb: [x, y]\n")
	for _, same := range []string{"b: [x, y]\na: 1\n", "# comment\n\na: 0x1\nb:\n- x\n- 'y'\n", `{"a": 1, "b": ["x", "y"]}`} {
		if sum(same) != base {
			t.Errorf("%q has another hash", same)
		}
	}
	for _, other := range []string{"a: 2\nb: [x, y]\n", "a: '1'\nb: [x, y]\n", "a: 1\nb: [y, x]\n", "a: 1\nb: [xy]\n", "a: 1\nb: [x, y, z]\n", "a: 1\nb: {x: y}\n", "a: 1\n"} {
		if sum(other) == base {
			t.Errorf("%q has the same hash", other)
		}
	}
}

func TestLimitsHoldAtTheirEdge(t *testing.T) {
	nested := func(levels int) string {
		return "a: " + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + "\n"
	}
	aliases := func(n int) string {
		return "a: &x [" + strings.Repeat("1, ", 999) + "]\nb: [" + strings.Repeat("*x, ", n) + "]\n"
	}
	for _, c := range []struct {
		name      string
		fits, not string
	}{
		{"bytes of a document", "a: " + strings.Repeat("x", limit.DocumentBytesMax-4) + "\n", "a: " + strings.Repeat("x", limit.DocumentBytesMax-3) + "\n"},
		{"depth", nested(limit.DocumentDepthMax), nested(limit.DocumentDepthMax + 1)},
		{"values repeated by aliases", aliases(limit.AliasNodesMax / 1000), aliases(limit.AliasNodesMax/1000 + 1)},
		{"depth by aliases", "a: &x " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\nb: " + strings.Repeat("[", 39) + "*x" + strings.Repeat("]", 39) + "\n",
			"a: &x " + strings.Repeat("[", 60) + strings.Repeat("]", 60) + "\nb: " + strings.Repeat("[", 40) + "*x" + strings.Repeat("]", 40) + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			one(t, c.fits)
			docs, _ := document.Parse([]byte(c.not))
			if len(docs) != 1 || docs[0].Root != nil || len(docs[0].Problems) != 1 || docs[0].Problems[0].Code != problem.CodeLimit {
				t.Errorf("beyond the limit: %d documents, %v", len(docs), docs[0].Problems)
			}
		})
	}
}

func TestFilesBeyondTheirLimitsAreRefused(t *testing.T) {
	docs, problems := document.Parse(make([]byte, limit.FileBytesMax+1))
	if len(docs) != 0 || len(problems) != 1 || problems[0].Code != problem.CodeLimit {
		t.Errorf("bytes: %d documents, %v", len(docs), problems)
	}
	docs, problems = document.Parse([]byte(strings.Repeat("---\na: 1\n", limit.DocumentsMax+1)))
	if len(docs) != limit.DocumentsMax || len(problems) != 1 || problems[0].Code != problem.CodeLimit {
		t.Errorf("documents: %d, %v", len(docs), problems)
	}
	if docs, problems = document.Parse([]byte(strings.Repeat("---\na: 1\n", limit.DocumentsMax))); len(docs) != limit.DocumentsMax || len(problems) != 0 {
		t.Errorf("at the limit: %d, %v", len(docs), problems)
	}
	if _, problems = document.Parse([]byte("\xff\xfea\x00")); len(problems) != 1 || !strings.Contains(problems[0].Message, "UTF-16") {
		t.Errorf("UTF-16: %v", problems)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a: 1\n---\nb: [x, *y]\n", "a: &x {<<: *x}\n", "? [a]\n: b\n", "{\"a\":\t1}", "--- |\n a\n...\n%TAG ! x\n---\n", "a: !!set {b}\n", "\xff\xfe", "a: 'x\n\n y'\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, _ := document.Parse(data)
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + strings.Count(string(data), "\u0085") + strings.Count(string(data), "\u2028") + strings.Count(string(data), "\u2029") + 1
		for _, d := range docs {
			if d.Root == nil && len(d.Problems) == 0 {
				t.Error("a document without a tree has no problem")
			}
			for _, p := range d.Problems {
				if p.Position.Line < 1 || p.Position.Line > lines+1 || p.Position.Column < 1 || p.Message == "" {
					t.Errorf("misplaced in %d lines: %s", lines, p)
				}
			}
			if d.Root != nil {
				d.Root.AppendJSON(nil)
				d.Root.WriteHash(fnv.New64a())
				d.Root.Find("a[0].b")
			}
		}
	})
}
