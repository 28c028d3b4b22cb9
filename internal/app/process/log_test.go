package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogTurnsOverAtItsBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "a.log")
	const entry = 25 + 5 + 1 // time, text, end of line
	l, err := openLog(path, 3*entry)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"line1", "line2", "line3", "line4"} {
		l.line(text)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	l.line("after the end") // drops
	older, newer := read(t, path+".1"), read(t, path)
	if strings.Count(older, "\n") != 3 || !strings.HasSuffix(older, "line3\n") || !strings.HasSuffix(newer, " line4\n") || strings.Count(newer, "\n") != 1 {
		t.Errorf("older %q, newer %q", older, newer)
	}
	l, err = openLog(path, 3*entry) // goes on where it was
	if err != nil {
		t.Fatal(err)
	}
	l.line("line5")
	if err := l.close(); err != nil || strings.Count(read(t, path), "\n") != 2 {
		t.Errorf("after opening again: %q, %v", read(t, path), err)
	}
}

func TestLogThatCannotBeWrittenIsReportedAtTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	l, err := openLog(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.file.Close(); err != nil { // as a disk that is gone
		t.Fatal(err)
	}
	l.line("one")
	l.line("two")
	if err := l.close(); err == nil || !strings.Contains(err.Error(), "write log") {
		t.Errorf("close returned %v", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
