package keyfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tullemesh/tulle/internal/identity/keyfile"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestReplacedFileIsPrivateAndWhole(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "key")
	if err := os.WriteFile(path, []byte("old, and longer than the new content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := keyfile.Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	data, err := keyfile.Read(path)
	if err != nil || string(data) != "new" {
		t.Errorf("read %q, %v", data, err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if entries, _ := os.ReadDir(directory); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestFilesThatOthersMayReadOrWriteAreRefused(t *testing.T) {
	for mode, good := range map[fs.FileMode]bool{
		0o400: true, 0o600: true, 0o640: true, 0o440: true, 0o700: true,
		0o604: false, 0o644: false, 0o602: false, 0o601: false, 0o620: false, 0o666: false, 0o777: false,
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := keyfile.Read(path)
		if (err == nil) != good || errors.Is(err, keyfile.ErrExposed) == good {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if !good && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: no remedy in %q", mode, err)
		}
		if _, err := keyfile.ReadPublic(path); err != nil {
			t.Errorf("mode %04o as a public file: %v", mode, err)
		}
	}
}

// Kubernetes mounts secrets as links to files; what counts is the file.
func TestLinkIsJudgedByItsTarget(t *testing.T) {
	directory := t.TempDir()
	target, link := filepath.Join(directory, "target"), filepath.Join(directory, "link")
	if err := os.WriteFile(target, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.Read(link); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("link to an exposed file: %v", err)
	}
	if err := os.Chmod(target, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.Read(link); err != nil {
		t.Errorf("link to a private file: %v", err)
	}
}

func TestUnreadableFiles(t *testing.T) {
	directory := t.TempDir()
	if _, err := keyfile.Read(filepath.Join(directory, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if _, err := keyfile.Read(directory); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: %v", err)
	}
	for size, good := range map[int]bool{limit.KeyFileBytesMax - 1: true, limit.KeyFileBytesMax: true, limit.KeyFileBytesMax + 1: false} {
		path := filepath.Join(directory, "big")
		if err := keyfile.Replace(path, bytes.Repeat([]byte("x"), size)); err != nil {
			t.Fatal(err)
		}
		if data, err := keyfile.Read(path); (err == nil) != good || good && len(data) != size {
			t.Errorf("%d bytes: %d, %v", size, len(data), err)
		}
	}
}

func TestCreateIsWonByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var winners atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			switch err := keyfile.Create(path, []byte{byte(i)}); {
			case err == nil:
				winners.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if winners.Load() != 1 {
		t.Errorf("%d winners", winners.Load())
	}
	if data, err := keyfile.Read(path); err != nil || len(data) != 1 {
		t.Errorf("content %v, %v", data, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestDirectoryIsMadePrivateOrRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := keyfile.MakeDirectory(path); err != nil {
			t.Fatal(err)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
	for mode, good := range map[fs.FileMode]bool{0o755: true, 0o775: false, 0o707: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := keyfile.MakeDirectory(path); errors.Is(err, keyfile.ErrExposed) == good {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

func TestWriteWhereNoDirectoryIs(t *testing.T) {
	if err := keyfile.Replace(filepath.Join(t.TempDir(), "absent", "key"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Replace: %v", err)
	}
}

func TestAFileIsHandedOverBeforeItTakesThePlaceOfTheOldOne(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "token")
	if err := keyfile.Replace(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := keyfile.ReplaceFor(path, []byte("new"), func(file string) error {
		before, _ := os.ReadFile(path)
		if after, err := os.ReadFile(file); string(before) != "old" || string(after) != "new" || err != nil {
			t.Errorf("while handing over: %q in place, %q handed over, %v", before, after, err)
		}
		return os.Chmod(file, 0o640)
	}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v %v", info, err)
	}
	refused := errors.New("no such user")
	if err := keyfile.ReplaceFor(path, []byte("lost"), func(string) error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
	entries, _ := os.ReadDir(directory)
	if data, err := os.ReadFile(path); string(data) != "new" || err != nil || len(entries) != 1 {
		t.Errorf("after a refusal: %q %v, %v", data, err, entries)
	}
}
