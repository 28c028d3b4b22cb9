package observe

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// repeatsMax lines of one level and message pass in each repeatWindow; the
// rest are counted and told when the window ends.
const (
	repeatsMax   = 20
	repeatWindow = 10 * time.Second
	// messagesMax bounds the messages whose rate is remembered. Messages are
	// constants, so more than that can't come.
	messagesMax = 4096
)

// Format is how log lines are written.
type Format uint8

// The formats.
const (
	Text Format = iota
	JSON
)

// LogOptions configure NewLogger.
type LogOptions struct {
	Format Format
	// Level may be a *slog.LevelVar, to change it while running; nil is Info.
	Level slog.Leveler
}

// NewLogger returns a logger that writes lines to w with secrets removed and
// with repeated messages held back: of each message repeatsMax lines pass in
// repeatWindow, then one line says how many were left out.
func NewLogger(w io.Writer, o LogOptions) *slog.Logger {
	options := &slog.HandlerOptions{Level: o.Level, ReplaceAttr: redact}
	var h slog.Handler
	if o.Format == JSON {
		h = slog.NewJSONHandler(w, options)
	} else {
		h = slog.NewTextHandler(w, options)
	}
	return slog.New(&repeatHandler{next: h, state: &repeatState{seen: map[repeatKey]*repeat{}}})
}

// redact hides values whose key says that they are secret. It is the second
// net: secrets have types that print as "[redacted]" themselves.
func redact(_ []string, a slog.Attr) slog.Attr {
	switch strings.ToLower(a.Key) {
	case "authorization", "cookie", "set-cookie", "password", "secret", "token", "private_key", "proxy-authorization":
		return slog.String(a.Key, "[redacted]")
	}
	return a
}

type repeatKey struct {
	level   slog.Level
	message string
}

type repeat struct {
	begun   time.Time
	count   int
	dropped int
}

type repeatState struct {
	// Guarded by mu.
	mu   sync.Mutex
	seen map[repeatKey]*repeat
}

// pass counts a record; dropped is what the last window left out, to be told
// with the first record of a new one.
func (s *repeatState) pass(r *slog.Record) (passes bool, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := repeatKey{r.Level, r.Message}
	seen, ok := s.seen[key]
	if !ok {
		if len(s.seen) >= messagesMax {
			clear(s.seen)
		}
		seen = &repeat{begun: r.Time}
		s.seen[key] = seen
	}
	if r.Time.Sub(seen.begun) >= repeatWindow {
		dropped = seen.dropped
		*seen = repeat{begun: r.Time}
	}
	seen.count++
	if seen.count > repeatsMax {
		seen.dropped++
		return false, 0
	}
	return true, dropped
}

// repeatHandler holds back repeats in front of another handler.
type repeatHandler struct {
	next  slog.Handler
	state *repeatState
}

// Enabled implements slog.Handler.
func (h *repeatHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.next.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *repeatHandler) Handle(ctx context.Context, r slog.Record) error {
	passes, dropped := h.state.pass(&r)
	if !passes {
		return nil
	}
	if dropped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("repeats_left_out", dropped))
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *repeatHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &repeatHandler{h.next.WithAttrs(attrs), h.state}
}

// WithGroup implements slog.Handler.
func (h *repeatHandler) WithGroup(name string) slog.Handler {
	return &repeatHandler{h.next.WithGroup(name), h.state}
}
