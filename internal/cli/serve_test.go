package cli

import (
	"path/filepath"
	"testing"
)

func TestStateIsNeverInTheFolderOfTemporaryFiles(t *testing.T) {
	for _, c := range []struct{ name, xdg, home, want string }{
		{"the specification's variable", "/state", "/home/a", "/state/tulle"},
		{"a home", "", "/home/a", "/home/a/.local/state/tulle"},
		{"neither", "", "", ".tulle"},
	} {
		t.Setenv("HOME", c.home)
		con := &console{environment: func(string) string { return c.xdg }}
		if got := con.stateHome(); got != filepath.FromSlash(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
