package capture

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Detect tries whether we may make network namespaces, with rules, and if not, why and what to do. It leaves nothing behind.
func Detect() Ability {
	direct := onThread(func() error {
		f, _, err := newNetwork()
		if err != nil {
			return err
		}
		return errors.Join(markTable("tulle-probe"), f.Close()) // the namespace ends with this thread
	})
	if direct == nil {
		return Ability{Mode: Direct}
	}
	if os.Geteuid() == 0 {
		return Ability{
			Mode: Unavailable, Reason: fmt.Sprintf("root may not make network namespaces here (%v), as in a container without rights", direct),
			Remedy: "give the container CAP_SYS_ADMIN and CAP_NET_ADMIN, or use capture: proxy",
		}
	}
	return rootless(facts{read: readTrimmed, uid: os.Getuid(), tryUserNamespace: tryUserNamespace, lookPath: exec.LookPath})
}

// facts are what rootless looks at.
type facts struct {
	read             func(path string) string
	uid              int
	tryUserNamespace func() error
	lookPath         func(string) (string, error)
}

func readTrimmed(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "" // no such switch, no such obstacle
	}
	return strings.TrimSpace(string(b))
}

// tryUserNamespace makes a user namespace in a process that ends at once.
func tryUserNamespace() error {
	path, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: path, Args: []string{path}, SysProcAttr: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}}
	return cmd.Run()
}

// rootless says whether RunRootless can work for an ordinary user.
func rootless(f facts) Ability {
	no := func(reason, remedy string) Ability {
		return Ability{Mode: Unavailable, Reason: reason, Remedy: remedy + ", or run tulle with sudo (applications still run as you), or use capture: proxy"}
	}
	if err := f.tryUserNamespace(); err != nil {
		switch {
		case f.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
			return no("unprivileged user namespaces are restricted (kernel.apparmor_restrict_unprivileged_userns=1)",
				"allow this binary by an AppArmor profile with `userns,`")
		case f.read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
			return no("unprivileged user namespaces are switched off (kernel.unprivileged_userns_clone=0)",
				"sudo sysctl kernel.unprivileged_userns_clone=1")
		case f.read("/proc/sys/user/max_user_namespaces") == "0":
			return no("user namespaces are switched off (user.max_user_namespaces=0)", "sudo sysctl user.max_user_namespaces=15000")
		}
		return no(fmt.Sprintf("the kernel refuses user namespaces (%v), as in a container with a seccomp profile", err), "allow them in the container")
	}
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := f.lookPath(tool); err != nil {
			return no(tool+" is not installed: the proxy needs a user of its own inside the namespace", "install it (Debian and Ubuntu: package uidmap; Fedora: shadow-utils)")
		}
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if _, _, err := subordinate(f.read(file), f.uid, f.read("/etc/passwd")); err != nil {
			return no(fmt.Sprintf("%s: %v", file, err), fmt.Sprintf("sudo usermod --add-subuids 200000-265535 --add-subgids 200000-265535 %s", userName(f.read("/etc/passwd"), f.uid)))
		}
	}
	return Ability{Mode: Rootless, Reason: "not root, but user namespaces are allowed", Remedy: "run in a user namespace"}
}
