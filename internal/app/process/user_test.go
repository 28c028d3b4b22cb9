package process_test

import (
	"testing"

	"github.com/tullemesh/tulle/internal/app/process"
)

func TestApplicationsRunAsTheInvoker(t *testing.T) {
	for _, c := range []struct {
		name             string
		uid              int
		sudoUID, sudoGID string
		isolated         bool
		want             int // the user's number; -1: ourselves
		wantErr          bool
	}{
		{"a user", 1000, "", "", false, -1, false},
		{"a user with leftovers of sudo", 1000, "1001", "1001", true, -1, false},
		{"root through sudo", 0, "4001", "4002", false, 4001, false},
		{"root through sudo, isolated", 0, "4001", "4002", true, 4001, false},
		{"root itself", 0, "", "", false, -1, false},
		{"root itself, isolated", 0, "", "", true, process.NobodyID, false},
		{"root through sudo of root, isolated", 0, "0", "0", true, process.NobodyID, false},
		{"no number", 0, "me", "1", false, 0, true},
		{"no group", 0, "4001", "", false, 0, true},
		{"negative", 0, "-1", "1", false, 0, true},
	} {
		u, err := process.Invoker(c.uid, c.sudoUID, c.sudoGID, c.isolated)
		got := -1
		if u != nil {
			got = int(u.UID)
		}
		if (err != nil) != c.wantErr || err == nil && got != c.want {
			t.Errorf("%s: runs as %d, %v, want %d", c.name, got, err, c.want)
		}
	}
}
