// Package keyfile keeps secrets in files that only their owner can read.
//
// In come paths and bytes, out go bytes and durable files: a write is atomic
// (a reader or a crash sees the old content or the new) and synced, a read
// refuses a file that others could have read. It keeps no state.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tullemesh/tulle/internal/limit"
)

// ErrExposed says that others than the owner may read or change a secret.
var ErrExposed = errors.New("secret is exposed")

// Permissions that make a file exposed: any to others, and writing by the
// group. Reading by the group is how Kubernetes mounts secrets (fsGroup).
const exposedFile fs.FileMode = 0o027

// Permissions that make a directory exposed: replacing files in it.
const exposedDirectory fs.FileMode = 0o022

// Read returns the content of a secret file. It must be a regular file (or a
// link to one) of at most limit.KeyFileBytesMax bytes; ErrExposed is in the
// error's chain when its permissions are too wide.
func Read(path string) ([]byte, error) { return read(path, exposedFile) }

// ReadPublic returns the content of a file that anybody may read, such as a
// certificate, with Read's other checks.
func ReadPublic(path string) ([]byte, error) { return read(path, 0) }

func read(path string, exposed fs.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The open file is asked, not the path, so that it can't be exchanged.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode()&exposed != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o; run: chmod 600 %s, and replace the secret if it may have been read", ErrExposed, path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit.KeyFileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > limit.KeyFileBytesMax {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit.KeyFileBytesMax)
	}
	return data, nil
}

// MakeDirectory creates path with mode 0700, or checks that nobody else may
// replace the files of an existing one.
func MakeDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode()&exposedDirectory != 0 {
		return fmt.Errorf("%w: directory %s has mode %04o; run: chmod 700 %s", ErrExposed, path, info.Mode().Perm(), path)
	}
	return nil
}

// Replace writes a file with mode 0600, whether it existed or not.
func Replace(path string, data []byte) error { return write(path, data, os.Rename) }

// ReplaceFor is Replace for a file of somebody else's: give hands the new file
// over before it takes the old one's place, so its reader finds one that it may
// read at every moment.
func ReplaceFor(path string, data []byte, give func(path string) error) error {
	return write(path, data, func(from, to string) error {
		if err := give(from); err != nil {
			return err
		}
		return os.Rename(from, to)
	})
}

// Create writes a new file with mode 0600. When path exists already,
// fs.ErrExist is in the error's chain and the file is untouched; of several
// concurrent callers exactly one creates it.
func Create(path string, data []byte) error { return write(path, data, os.Link) }

// write puts the data into a temporary file beside path, which place then
// moves or links there.
func write(path string, data []byte, place func(from, to string) error) (err error) {
	directory := filepath.Dir(path)
	f, err := os.CreateTemp(directory, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		// After a rename there is nothing left to remove.
		if e := os.Remove(f.Name()); err == nil && e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	return SyncDirectory(directory)
}

// SyncDirectory makes the names in a directory durable.
func SyncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
