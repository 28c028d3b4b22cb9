package program

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPeerIsWhatTheVariableNamesOrTheScriptPrints(t *testing.T) {
	script := filepath.Join(t.TempDir(), "peer.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho /opt/peer\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TULLE_TEST_PEER", "")
	if got, err := Find(t.Context(), "TULLE_TEST_PEER", script); got != "/opt/peer" || err != nil {
		t.Errorf("without a variable: %q, %v", got, err)
	}
	t.Setenv("TULLE_TEST_PEER", "/mine")
	if got := Need(t, "TULLE_TEST_PEER", script); got != "/mine" {
		t.Errorf("with a variable: %q", got)
	}
}

func TestAPeerThatIsNotToBeHadIsToldWithItsReason(t *testing.T) {
	script := filepath.Join(t.TempDir(), "peer.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho no registry >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Find(t.Context(), "TULLE_TEST_PEER", script)
	if err == nil || !strings.Contains(err.Error(), "peer.sh is not to be had") || !strings.Contains(err.Error(), "no registry") {
		t.Errorf("error %v", err)
	}
}
