package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// left is the state file: what a run that is killed leaves is processes, because namespaces end with their last one.
type left struct {
	// Boot tells the machine's run: numbers of processes and namespaces mean nothing after a reboot.
	Boot string `json:"boot"`
	// Run is in the name of the table in every namespace.
	Run string `json:"run"`
	// Owner is our process.
	Owner owner `json:"owner"`
	// Namespaces are their numbers, the bridge's first.
	Namespaces []uint64 `json:"namespaces"`
}

type owner struct {
	PID int `json:"pid"`
	// Start is when the process started, in ticks since boot: a process number is used again, with another start.
	Start string `json:"start"`
}

// ErrInUse is returned by Open when the run that wrote the state file is still alive.
var ErrInUse = errors.New("network is in use by another run")

// goneTimeMax bounds the wait for killed processes.
const goneTimeMax = 5 * time.Second

func tableName(run string) string { return "tulle-" + run }

// markTable makes an empty table, by which removeLeft knows the namespace.
func markTable(table string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table: %w; does the kernel have nf_tables?", err)
	}
	return nil
}

func (n *Network) writeState() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.writeStateLocked()
}

// writeStateLocked replaces the state file at once, so that a killed run leaves a whole one.
func (n *Network) writeStateLocked() error {
	if n.state == "" {
		return nil
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	l := left{Boot: boot, Run: n.run, Owner: owner{PID: os.Getpid(), Start: startOf(os.Getpid())}, Namespaces: []uint64{n.number}}
	for _, s := range n.spaces {
		l.Namespaces = append(l.Namespaces, s.number)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := keyfile.Replace(n.state, b); err != nil {
		return fmt.Errorf("write state of the network: %w", err)
	}
	return nil
}

func removeState(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state of the network: %w", err)
	}
	return nil
}

// removeLeft kills the processes that a killed run left in its namespaces, and forgets its state. A namespace's number may be another
// program's by now, so nothing is killed in one that does not hold the run's table.
func removeLeft(ctx context.Context, path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state of the network: %w", err)
	}
	var l left
	if err := json.Unmarshal(b, &l); err != nil || l.Run == "" {
		return fmt.Errorf("state of the network %s is damaged (%w); remove it when no tulle runs here", path, errors.Join(err))
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	if boot != l.Boot {
		return removeState(path)
	}
	if start := startOf(l.Owner.PID); start != "" && start == l.Owner.Start && l.Owner.PID != os.Getpid() {
		return fmt.Errorf("%w, process %d; end it with `tulle down`", ErrInUse, l.Owner.PID)
	}
	for _, number := range l.Namespaces {
		if err := ctx.Err(); err != nil {
			return err
		}
		inside := processesIn(number)
		if len(inside) == 0 {
			continue
		}
		ours, err := holdsTable(inside[0], number, tableName(l.Run))
		if err != nil {
			return err
		}
		if ours {
			if err := killInside(number); err != nil {
				return err
			}
		}
	}
	return removeState(path)
}

// holdsTable reports whether the namespace of a process is still the one of the number, and holds the run's table.
func holdsTable(pid int, number uint64, table string) (ours bool, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // gone meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("open namespace of process %d: %w", pid, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Ino != number {
		return false, err
	}
	err = onThread(func() error {
		if err := enter(f); err != nil {
			return err
		}
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
		for _, t := range tables {
			ours = ours || t.Name == table
		}
		return err
	})
	return ours, err
}

// processesIn lists the processes in a network namespace, without ourselves.
func processesIn(number uint64) []int {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net") // the pattern is well formed
	want := "net:[" + strconv.FormatUint(number, 10) + "]"
	var pids []int
	for _, l := range links {
		if where, err := os.Readlink(l); err != nil || where != want {
			continue // another one, gone, or not ours to see
		}
		if pid, err := strconv.Atoi(strings.Split(l, "/")[2]); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killInside kills every process in a namespace, until there is none.
func killInside(number uint64) error {
	timeout := time.NewTimer(goneTimeMax)
	defer timeout.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		pids := processesIn(number)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already is fine
		}
		select {
		case <-tick.C:
		case <-timeout.C:
			return fmt.Errorf("process %d is still in its namespace %v after SIGKILL", pids[0], goneTimeMax)
		}
	}
}

// startOf is when a process started (proc(5): field 22 of stat), or nothing when there is none.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
