package file

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// grown brings the tree at dir from there to n of something.
type grown func(dir string, there, n int) error

func each(format string, makes func(path string) error) grown {
	return func(dir string, there, n int) error {
		for i := there; i < n; i++ {
			if err := makes(filepath.Join(dir, fmt.Sprintf(format, i))); err != nil {
				return err
			}
		}
		return nil
	}
}

// sized makes one file of so many bytes, which take no room on the disk.
func sized(dir string, _, n int) error {
	path := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, int64(n))
}

// TestTreesHaveLargestSizes: a tree is walked as far as its limits go, and what is beyond is told once.
func TestTreesHaveLargestSizes(t *testing.T) {
	for _, c := range []struct {
		name, says string
		most       int
		grow       grown
		seen       func(f *found) int
	}{
		{"files", "more than 10000 files", limit.SourceFilesMax, each("f%05d.yaml", func(path string) error { return os.WriteFile(path, nil, 0o600) }),
			func(f *found) int { return len(f.files) }},
		{"folders", "more than 5000 folders", limit.SourceFoldersMax, each("d%05d", func(path string) error { return os.Mkdir(path, 0o755) }),
			func(f *found) int { return len(f.folders) }},
		{"bytes", "more than 256 MiB in all files", limit.SourceBytesMax, sized, func(f *found) int { return int(f.bytes) }},
	} {
		roots := []root{{path: t.TempDir(), folder: true}}
		there := c.seen(walk(roots)) // the folder itself may count
		for _, n := range []int{c.most - 1, c.most, c.most + 1} {
			if err := c.grow(roots[0].path, there, n); err != nil {
				t.Fatal(err)
			}
			there = n
			f := walk(roots)
			if n <= c.most && (c.seen(f) != n || len(f.problems) != 0) {
				t.Errorf("%d %s: saw %d, %v", n, c.name, c.seen(f), f.problems)
			}
			if n > c.most && (c.seen(f) > c.most || len(f.problems) != 1 || f.problems[0].Code != problem.CodeLimit || f.problems[0].Message != c.says) {
				t.Errorf("%d %s: saw %d, %v; want the one problem %q", n, c.name, c.seen(f), f.problems, c.says)
			}
		}
	}
}
