package access

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tullemesh/tulle/internal/limit"
	"github.com/tullemesh/tulle/internal/observe"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

const (
	// flushAfter is how long a line may wait, so that many lines make one
	// write. Envoy's default is a second.
	flushAfter = 100 * time.Millisecond
	// flushBytes is how much is written without waiting for that.
	flushBytes = 64 << 10
)

// Logs holds the access logs of all configurations: formats parsed once, one
// sink for each path.
type Logs struct {
	// Fixed at creation.
	open    func(path string) (io.WriteCloser, error)
	dropped *observe.CounterVec

	// The generation in force, and the one before it for requests under way.
	byLog, before atomic.Pointer[map[*listener.AccessLog]*Log]

	// Guarded by mu.
	mu     sync.Mutex
	sinks  map[string]*sink
	closed bool
}

// Log is one configured access log.
type Log struct {
	spec   *listener.AccessLog
	format *Format
	sink   *sink
}

// NewLogs returns no logs yet. open opens a path; nil: OpenFile.
func NewLogs(open func(path string) (io.WriteCloser, error), r *observe.Registry) *Logs {
	if open == nil {
		open = OpenFile
	}
	l := &Logs{
		open: open, sinks: map[string]*sink{},
		dropped: r.Counter("tulle_access_log_lines_dropped_total", "Access log lines that a slow or broken sink made us drop.", "path"),
	}
	l.byLog.Store(&map[*listener.AccessLog]*Log{})
	l.before.Store(l.byLog.Load())
	return l
}

// keepOpen is a stream that belongs to the process.
type keepOpen struct{ io.Writer }

// Close implements io.Closer.
func (keepOpen) Close() error { return nil }

// KeepOpen makes a stream that is not ours to close a sink.
func KeepOpen(w io.Writer) io.WriteCloser { return keepOpen{w} }

// OpenFile opens an access log's path to append: for /dev/stdout and
// /dev/stderr the process's own streams, else a file for ourselves alone.
func OpenFile(path string) (io.WriteCloser, error) {
	switch path {
	case "/dev/stdout":
		return keepOpen{os.Stdout}, nil
	case "/dev/stderr":
		return keepOpen{os.Stderr}, nil
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// Prepare makes the logs of a configuration ready and closes sinks that neither
// it uses nor the one before, whose requests may be under way. The error names those that can't be; they write nothing.
func (l *Logs) Prepare(specs []*listener.AccessLog) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	var errs []error
	used := map[string]bool{}
	next := make(map[*listener.AccessLog]*Log, len(specs))
	for _, spec := range specs {
		used[spec.Path] = true
		log, err := l.getLocked(spec)
		if err != nil {
			errs = append(errs, fmt.Errorf("access log %s: %w", spec.Path, err))
			continue
		}
		next[spec] = log
	}
	before := l.byLog.Swap(&next)
	l.before.Store(before)
	for spec := range *before {
		used[spec.Path] = true
	}
	for path, s := range l.sinks {
		if !used[path] {
			delete(l.sinks, path)
			s.close()
		}
	}
	return errors.Join(errs...)
}

func (l *Logs) getLocked(spec *listener.AccessLog) (*Log, error) {
	var f *Format
	var err error
	if len(spec.JSON) > 0 {
		f, err = ParseJSON(spec.JSON)
	} else {
		f, err = Parse(spec.Format)
	}
	if err != nil {
		return nil, err
	}
	s := l.sinks[spec.Path]
	if s == nil {
		w, err := l.open(spec.Path)
		if err != nil {
			return nil, err
		}
		s = newSink(w, l.dropped.With(spec.Path))
		l.sinks[spec.Path] = s
	}
	return &Log{spec, f, s}, nil
}

// Get finds a prepared log, or nil when it could not be prepared.
func (l *Logs) Get(spec *listener.AccessLog) *Log {
	if log := (*l.byLog.Load())[spec]; log != nil {
		return log
	}
	return (*l.before.Load())[spec]
}

// Write writes a record's line if the log's filters let it pass.
func (l *Log) Write(r *Record) {
	if l == nil || !l.wants(r) {
		return
	}
	l.sink.write(l.format, r)
}

func (l *Log) wants(r *Record) bool {
	s := l.spec
	if s.NotHealth && r.healthCheck() {
		return false
	}
	if s.StatusMin > 0 && r.Status < s.StatusMin {
		return false
	}
	if len(s.OnlyFlags) == 0 {
		return true
	}
	for flag := range strings.SplitSeq(r.Flag, ",") {
		if slices.Contains(s.OnlyFlags, flag) {
			return true
		}
	}
	return false
}

// Close writes what waits and closes the sinks.
func (l *Logs) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for path, s := range l.sinks {
		delete(l.sinks, path)
		s.close()
	}
}

// sink is a bounded buffer in front of a file. The timer's goroutine writes;
// those who log only append.
type sink struct {
	w       io.WriteCloser
	dropped *observe.Counter

	flusher sync.WaitGroup

	// Guarded by mu.
	mu       sync.Mutex
	lines    []byte
	spare    []byte // of the flusher
	timer    *time.Timer
	armed    bool // the timer is, or a flusher runs
	hurry    bool
	flushing bool
	closed   bool
}

func newSink(w io.WriteCloser, dropped *observe.Counter) *sink { return &sink{w: w, dropped: dropped} }

func (s *sink) write(f *Format, r *Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.lines) >= limit.AccessLogBytesMax {
		s.dropped.Inc()
		return
	}
	s.lines = f.Append(s.lines, r)
	switch {
	case !s.armed:
		s.armed = true
		if s.timer == nil {
			s.timer = time.AfterFunc(flushAfter, s.flush)
		} else {
			s.timer.Reset(flushAfter)
		}
	case len(s.lines) >= flushBytes && !s.hurry && !s.flushing:
		s.hurry = true
		s.timer.Reset(0)
	}
}

// flush writes until nothing waits. One flusher runs at a time, so lines keep
// their order; what comes while it writes goes with its next write.
func (s *sink) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing {
		return
	}
	s.flushing, s.armed = true, true
	s.flusher.Add(1)
	defer s.flusher.Done()
	for len(s.lines) > 0 {
		lines := s.lines
		s.lines = s.spare[:0]
		s.mu.Unlock()
		_, err := s.w.Write(lines)
		s.mu.Lock()
		if err != nil {
			s.dropped.Inc()
		}
		s.spare = lines
	}
	s.flushing, s.armed, s.hurry = false, false, false
}

func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.flush()
	s.flusher.Wait()
	_ = s.w.Close() // nothing is lost: all lines were written
}
