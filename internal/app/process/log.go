package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// LogBytesMax bounds the log file of one process. With the older file beside it, a process keeps twice as much.
const LogBytesMax = 10 << 20

// logFile is a log of lines, each with its time before it. Losing a line (a full disk) must not stop a service; the first failure is
// kept and returned by close. A nil logFile drops everything.
type logFile struct {
	path     string
	bytesMax int64

	// Guarded by mu.
	mu     sync.Mutex
	file   *os.File
	bytes  int64
	failed error
}

// openLog opens a log for appending; its folder is made when it is missing.
func openLog(path string, bytesMax int64) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder for logs: %w", err)
	}
	l := &logFile{path: path, bytesMax: bytesMax}
	if err := l.openLocked(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *logFile) openLocked() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.bytes = f, info.Size()
	return nil
}

// line appends one line, in a new file when the old one would grow past its bound.
func (l *logFile) line(text string) {
	if l == nil {
		return
	}
	entry := time.Now().UTC().Format("2006-01-02T15:04:05.000Z ") + text + "\n"
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if l.bytes > 0 && l.bytes+int64(len(entry)) > l.bytesMax {
		if err := l.turnLocked(); err != nil {
			l.failed = errors.Join(l.failed, err)
			return
		}
	}
	n, err := l.file.WriteString(entry)
	l.bytes += int64(n)
	if err != nil && l.failed == nil {
		l.failed = fmt.Errorf("write log: %w", err)
	}
}

// turnLocked makes the log the older file and begins a new one.
func (l *logFile) turnLocked() error {
	err := l.file.Close()
	l.file = nil
	if rename := os.Rename(l.path, l.path+".1"); rename != nil && !errors.Is(rename, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("turn log over: %w", rename))
	}
	return errors.Join(err, l.openLocked())
}

// close ends the log and returns the first failure of its life.
func (l *logFile) close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.failed
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	return err
}
