//go:build linux

package capture

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestRootlessSaysWhyNotAndWhatToDo(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh"
	const ranges = "other:100000:65536\nme:200000:65536\n"
	refused := errors.New("operation not permitted")
	for _, c := range []struct {
		name           string
		files          map[string]string
		userNamespace  error
		missing        string
		mode           Mode
		reason, remedy string
	}{
		{"allowed", map[string]string{"/etc/subuid": ranges, "/etc/subgid": ranges}, nil, "", Rootless, "", ""},
		{"ranges by number", map[string]string{"/etc/subuid": "1000:200000:65535", "/etc/subgid": ranges}, nil, "", Rootless, "", ""},
		{"AppArmor", map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, refused, "", Unavailable, "apparmor_restrict_unprivileged_userns=1", "AppArmor profile"},
		{"Debian's switch", map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, refused, "", Unavailable, "unprivileged_userns_clone=0", "sysctl kernel.unprivileged_userns_clone=1"},
		{"the limit is 0", map[string]string{"/proc/sys/user/max_user_namespaces": "0"}, refused, "", Unavailable, "max_user_namespaces=0", "sysctl user.max_user_namespaces"},
		{"a container", nil, refused, "", Unavailable, "operation not permitted", "container"},
		{"no tool", map[string]string{"/etc/subuid": ranges, "/etc/subgid": ranges}, nil, "newgidmap", Unavailable, "newgidmap is not installed", "uidmap"},
		{"no range of users", map[string]string{"/etc/subuid": "other:1:65536", "/etc/subgid": ranges}, nil, "", Unavailable, "/etc/subuid: user me has no range", "usermod --add-subuids"},
		{"a range of groups that is too small", map[string]string{"/etc/subuid": ranges, "/etc/subgid": "me:200000:65534"}, nil, "", Unavailable, "/etc/subgid", "me"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := rootless(facts{
				read: func(path string) string {
					if path == "/etc/passwd" {
						return passwd
					}
					return c.files[path]
				},
				uid: 1000, tryUserNamespace: func() error { return c.userNamespace },
				lookPath: func(name string) (string, error) {
					if name == c.missing {
						return "", exec.ErrNotFound
					}
					return "/usr/bin/" + name, nil
				},
			})
			if a.Mode != c.mode || !strings.Contains(a.Reason, c.reason) || !strings.Contains(a.Remedy, c.remedy) {
				t.Errorf("got %+v", a)
			}
			if a.Mode == Unavailable && (!strings.Contains(a.Remedy, "sudo tulle") && !strings.Contains(a.Remedy, "with sudo")) {
				t.Errorf("the remedy %q does not name the other ways", a.Remedy)
			}
		})
	}
}
