//go:build linux

package netns_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/tullemesh/tulle/internal/agent/capture"
)

// rootlessUser is whom the test plays when root runs it: an ordinary user without rights.
const rootlessUser = app

// rootless is run by an ordinary user: it starts the program again in a user namespace, where world runs.
func rootless(ctx context.Context) error {
	if a := capture.Detect(); a.Mode != capture.Rootless {
		fmt.Printf("skip: %s (%s)\n", a.Reason, a.Remedy)
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd, err := capture.StartRootless(ctx, []string{self, "inside", "stage"}, []string{self, "inside", "world"}, []string{"PATH=/usr/bin:/bin"})
	if err != nil {
		return err
	}
	return cmd.Wait()
}

// small is what runs in the user namespace: a network with one workload, whose application is captured and whose proxy is not.
func small(ctx context.Context) error {
	if err := capture.DieWithParent(); err != nil {
		return err
	}
	n, err := capture.Open(ctx, capture.Options{})
	if err != nil {
		return err
	}
	ns, err := n.Add("a", true)
	if err != nil {
		return errors.Join(err, n.Close())
	}
	ln, err := ns.Listen(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), capture.OutboundPort))
	if err != nil {
		return errors.Join(err, n.Close())
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "captured for %s\n", originalDestination(c))
			_ = c.Close()
		}
	}()
	for _, uid := range []uint32{0, capture.ProxyUID} {
		// An address of the subnet that no one has: who is not captured finds nobody there.
		cmd := exec.CommandContext(ctx, os.Args[0], "inside", "call", "10.77.0.99:80")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		var out []byte
		_ = ns.Enter(func() (err error) {
			out, err = cmd.Output()
			return err
		})
		fmt.Printf("%d: %s\n", uid, strings.TrimSpace(string(out)))
	}
	_ = ln.Close()
	<-ended
	return n.Close()
}

func TestOrdinaryUserCapturesInAUserNamespace(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), program(t), "inside", "rootless")
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: rootlessUser, Gid: rootlessUser}}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		got = append(got, lines.Text())
	}
	err = cmd.Wait()
	if len(got) == 1 && strings.HasPrefix(got[0], "skip: ") {
		t.Skip(got[0])
	}
	if err != nil || len(got) != 2 || got[0] != "0: captured for 10.77.0.99:80" || !strings.HasPrefix(got[1], "1337: error:") {
		t.Errorf("%v, printed %q", err, got)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == "mesh0" {
			t.Error("the bridge is left on the host")
		}
	}
}
