package process

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// NobodyID is the user and group of applications whose invoker is root itself: they have no business with root's rights.
const NobodyID = 65534

// User is whom a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
	// Name and Home are put into the environment as USER, LOGNAME and HOME; empty: left as they are.
	Name, Home string
}

// Invoker returns whom applications run as: nil (ourselves) when we are not root; the user who called sudo (SUDO_UID, SUDO_GID) when
// there is one; and for root itself nobody when isolated says that they run in namespaces of their own, else root.
func Invoker(effectiveUID int, sudoUID, sudoGID string, isolated bool) (*User, error) {
	if effectiveUID != 0 {
		return nil, nil
	}
	if sudoUID == "" || sudoUID == "0" {
		if isolated {
			return &User{UID: NobodyID, GID: NobodyID, Name: "nobody", Home: "/"}, nil
		}
		return nil, nil
	}
	uid, err := strconv.ParseUint(sudoUID, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("SUDO_UID is %q, it must be a user's number: %w", sudoUID, err)
	}
	gid, err := strconv.ParseUint(sudoGID, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("SUDO_GID is %q, it must be a group's number: %w", sudoGID, err)
	}
	u := &User{UID: uint32(uid), GID: uint32(gid)}
	known, err := user.LookupId(sudoUID)
	if err != nil {
		return u, nil // a user without an entry has no other groups and no home
	}
	u.Name, u.Home = known.Username, known.HomeDir
	groups, err := known.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", known.Username, err)
	}
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil {
			u.Groups = append(u.Groups, uint32(id))
		}
	}
	return u, nil
}

// environ puts the user's names into an environment. A nil user changes nothing.
func (u *User) environ(env []string) []string {
	if u == nil || u.Name == "" {
		return env
	}
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if name != "USER" && name != "LOGNAME" && name != "HOME" && !strings.HasPrefix(name, "SUDO_") {
			out = append(out, e)
		}
	}
	return append(out, "USER="+u.Name, "LOGNAME="+u.Name, "HOME="+u.Home)
}
