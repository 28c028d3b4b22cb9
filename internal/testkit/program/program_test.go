package program

import (
	"context"
	"debug/buildinfo"
	"io"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAProgramHasTheRaceDetectorWhenItsTestsDo(t *testing.T) {
	path, err := Build(t.Context(), t.TempDir(), "github.com/tullemesh/tulle/internal/invariant/testdata/production")
	if err != nil {
		t.Fatal(err)
	}
	built, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mine, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the test's binary does not know how it was built")
	}
	detector := debug.BuildSetting{Key: "-race", Value: "true"}
	if got, want := slices.Contains(built.Settings, detector), slices.Contains(mine.Settings, detector); got != want {
		t.Errorf("race detector %t, want %t", got, want)
	}
}

func TestWhatDoesNotBuildIsToldByItsPath(t *testing.T) {
	_, err := Build(t.Context(), t.TempDir(), Tulle+"/nothing")
	if err == nil || !strings.Contains(err.Error(), "build "+Tulle+"/nothing") {
		t.Errorf("error %v", err)
	}
}

func TestOutputIsReadWhileAProcessWrites(t *testing.T) {
	var out Output
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo one; echo two >&2")
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	reading.Go(func() {
		for ctx.Err() == nil {
			_ = out.String()
		}
	})
	err := cmd.Wait()
	stop()
	reading.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "one\n") || !strings.Contains(got, "two\n") || len(got) != len("one\ntwo\n") {
		t.Errorf("output %q", got)
	}
}
