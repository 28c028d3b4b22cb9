package app

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tullemesh/tulle/internal/app/process"
)

func TestWhoMayEnterAFolder(t *testing.T) {
	base := t.TempDir()
	for dir := base; dir != filepath.Dir(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&1 == 0 {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Skipf("the folder of tests is closed: %v", err)
			}
		}
	}
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	owner, stranger := &process.User{UID: uid, GID: gid}, &process.User{UID: uid + 7, GID: gid + 7}
	member := &process.User{UID: uid + 7, GID: gid + 7, Groups: []uint32{gid}}
	for _, c := range []struct {
		name string
		mode os.FileMode
		user *process.User
		want bool
	}{
		{"its owner", 0o700, owner, true},
		{"its owner, whom it keeps out", 0o077, owner, false},
		{"a member of its group", 0o710, member, true},
		{"a member of its group, whom it keeps out", 0o701, member, false},
		{"anybody", 0o711, stranger, true},
		{"a stranger", 0o750, stranger, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(base, "dir")
			inner := filepath.Join(dir, "inner")
			if err := os.MkdirAll(inner, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(inner, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, c.mode); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = os.Chmod(dir, 0o755) }()
			if got := mayEnter(c.user, dir); got != c.want {
				t.Errorf("the folder: %v", got)
			}
			if os.Getuid() == 0 || c.want { // who cannot look inside cannot be asked about what is there
				if got := mayEnter(c.user, inner); got != c.want {
					t.Errorf("a folder below: %v", got)
				}
			}
		})
	}
}
