package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sources parses the Go files below the repository's folders of code, by folder.
func sources(t *testing.T) map[string][]*ast.File {
	t.Helper()
	out := map[string][]*ast.File{}
	set := token.NewFileSet()
	for _, root := range []string{"cmd", "internal", "test"} {
		err := filepath.WalkDir(filepath.Join("..", "..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../../")
			out[dir] = append(out[dir], f)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// calls reports whether a file has a call of what match takes: the name before the dot, if any, and the name.
func calls(f *ast.File, match func(of, name string) bool) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok {
			switch fun := c.Fun.(type) {
			case *ast.SelectorExpr:
				of := ""
				if x, ok := fun.X.(*ast.Ident); ok {
					of = x.Name
				}
				found = found || match(of, fun.Sel.Name)
			case *ast.Ident:
				found = found || match("", fun.Name)
			}
		}
		return !found
	})
	return found
}

func startsGoroutines(f *ast.File) bool {
	found := calls(f, func(_, name string) bool { return name == "Go" })
	ast.Inspect(f, func(n ast.Node) bool {
		if _, ok := n.(*ast.GoStmt); ok {
			found = true
		}
		return !found
	})
	return found
}

// leaky are packages whose goroutines are not looked for, each with the reason. The list only shrinks.
func leaky() map[string]string {
	return map[string]string{}
}

// TestPackagesThatStartGoroutinesLookForLeaks: where code or tests start goroutines, the tests end with goleak.
func TestPackagesThatStartGoroutinesLookForLeaks(t *testing.T) {
	all := sources(t)
	except := leaky()
	for _, dir := range slices.Sorted(maps.Keys(all)) {
		starts, tested, looks := false, false, false
		for _, f := range all[dir] {
			starts = starts || startsGoroutines(f)
			tested = tested || calls(f, func(of, _ string) bool { return of == "t" || of == "testing" || of == "m" }) && importsTesting(f)
			looks = looks || calls(f, func(of, name string) bool {
				return of == "goleak" && (name == "Find" || strings.HasPrefix(name, "Verify"))
			})
		}
		if !starts || !tested || strings.HasPrefix(dir, "internal/testkit/") {
			continue
		}
		if _, ok := except[dir]; ok == looks {
			t.Errorf("%s: goroutines are started and leaks looked for: %t; on the list of exceptions: %t", dir, looks, ok)
		}
	}
}

func importsTesting(f *ast.File) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing"` })
}
