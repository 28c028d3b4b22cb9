package sds_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/agent/sds"
)

func TestSocketIsPrivateAndLeavesNothingBeside(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "sds.sock")
	l, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, want a socket of 0600", info.Mode())
	}
	if entries, _ := os.ReadDir(directory); len(entries) != 1 {
		t.Errorf("directory holds %v, want only the socket", entries)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if entries, _ := os.ReadDir(directory); len(entries) != 0 {
		t.Errorf("directory holds %v after Close", entries)
	}
}

func TestServedSocketIsNotTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sds.sock")
	l, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := sds.Listen(t.Context(), path); !errors.Is(err, sds.ErrInUse) {
		t.Errorf("second Listen: %v, want ErrInUse", err)
	}
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatalf("first listener after the attempt: %v", err)
	}
	c.Close()
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sds.sock")
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	l, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestFileInPlaceOfTheSocketIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sds.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("Listen: %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "mine" {
		t.Errorf("the file now holds %q", data)
	}
}

func TestCloseLeavesASuccessorsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sds.sock")
	old, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, err := sds.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	old.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket: %v", err)
	}
}

func TestTooLongPathIsToldBeforeTheKernelDoes(t *testing.T) {
	directory := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := sds.Listen(t.Context(), filepath.Join(directory, "s"))
	if err == nil || !strings.Contains(err.Error(), "shorter state directory") {
		t.Errorf("Listen: %v", err)
	}
}
