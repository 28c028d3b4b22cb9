//go:build !linux

package process

import "syscall"

// attributes puts the process into a group of its own and makes it the given user. Only Linux has a parent death signal; elsewhere
// the reaper alone kills what a killed parent leaves.
func attributes(u *User) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if u != nil {
		a.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	return a
}
