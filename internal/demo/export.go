package demo

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// files holds the shop's project: tulle.yaml and the Istio objects beside it.
//
//go:embed tulle.yaml istio/*.yaml
var files embed.FS

// Files returns the shop's project as a file tree: tulle.yaml and istio/*.yaml.
func Files() fs.FS { return files }

// ErrExists is returned by Export when a file of the shop is already there: what a person has edited is not overwritten.
var ErrExists = errors.New("file exists")

// Export writes the shop's project into dir, which is made when it is missing, and returns the paths written. Nothing is written
// when one of the files exists.
func Export(dir string) ([]string, error) {
	var names []string
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		path := filepath.Join(dir, filepath.FromSlash(n))
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("%w: %s", ErrExists, path), err)
		}
	}
	var written []string
	for _, n := range names {
		path := filepath.Join(dir, filepath.FromSlash(n))
		b, err := files.ReadFile(n)
		if err != nil {
			return written, err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return written, fmt.Errorf("make folder for the shop: %w", err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return written, fmt.Errorf("write the shop: %w", err)
		}
		written = append(written, path)
	}
	return written, nil
}
