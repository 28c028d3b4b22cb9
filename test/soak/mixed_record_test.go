//go:build soak

package soak_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// record says which outcomes servers have caused: by path of what they read, by connection of what they did not.
type record struct {
	mu    sync.Mutex
	may   map[string]map[string]bool
	did   map[string]int     // deeds by name, and what only a connection explains
	lives map[string][]*life // by both addresses: a port may be used again
	gone  map[string][]*life // by address, of servers when they were killed
}

// life is that of a connection as its server saw it, or the time for which there was no server.
type life struct {
	read          map[string]bool      // paths
	struck        map[string]time.Time // outcomes, and since when the server is the cause of them
	reset         bool                 // answers that were under way may be lost as well
	begun, closed time.Time            // closed: zero as long as it lasts
}

func newRecord() *record {
	return &record{may: map[string]map[string]bool{}, did: map[string]int{}, lives: map[string][]*life{}, gone: map[string][]*life{}}
}

// begin is the beginning of a connection.
func (r *record) begin(addresses string) *life {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &life{read: map[string]bool{}, struck: map[string]time.Time{}, begun: time.Now()}
	r.lives[addresses] = append(r.lives[addresses], l)
	return l
}

// strike says that a server is about to be the cause of the end of what it has not read on a connection.
func (r *record) strike(l *life, may []string, reset bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.reset = l.reset || reset
	for _, m := range may {
		if l.struck[m].IsZero() {
			l.struck[m] = time.Now()
		}
	}
}

// read says that a server has read a request's head.
func (r *record) read(l *life, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.read[path] = true
}

// close ends what begin or away began.
func (r *record) close(l *life) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.closed = time.Now()
}

// away says that a server is about to end; the result's closing is that it is back.
func (r *record) away(at string) *life {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &life{begun: time.Now()}
	r.gone[at] = append(r.gone[at], l)
	return l
}

// note says that a server is about to be the cause of an outcome of a request.
func (r *record) note(path, name string, may []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.did[name]++
	if r.may[path] == nil {
		r.may[path] = map[string]bool{}
	}
	for _, m := range may {
		r.may[path][m] = true
	}
}

// explains reports whether some deed is the cause of an outcome: one to the request itself; one to the connection that it was on, before it
// ended, when the server has not read it there; or that there was no server to connect to.
func (r *record) explains(l *line) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.may[l.path][l.outcome()] {
		return true
	}
	var on *life // the proxy learns of a connection's end later than the server does, so the address's last one
	for _, c := range r.lives[l.from] {
		if !c.begun.After(l.end) {
			on = c
		}
	}
	if on != nil && (on.reset || !on.read[l.path]) {
		if at := on.struck[l.outcome()]; !at.IsZero() && !at.After(l.end) {
			r.did["explained by the connection"]++
			return true
		}
	}
	_, host, _ := strings.Cut(l.from, ">")
	return l.flags == "UF" && slices.ContainsFunc(r.gone[host], func(g *life) bool {
		return !g.begun.After(l.end) && (g.closed.IsZero() || !l.start.After(g.closed))
	})
}

// about tells what is known of a request that nothing explains.
func (r *record) about(l *line) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := fmt.Sprintf("%s %s by %s from %v to %v; deeds may lead to %v; its connections:", l.outcome(), l.details, l.from, l.start, l.end, r.may[l.path])
	for _, c := range r.lives[l.from] {
		out += fmt.Sprintf(" begun %v closed %v read %v struck %v", c.begun, c.closed, c.read[l.path], c.struck)
	}
	return out
}

// line is one of the log.
type line struct {
	path, status, flags, from, details string
	start, end                         time.Time
}

func (l *line) outcome() string { return l.status + " " + l.flags }

// left tells whether the proxy saw its client leave: its connection end, or its stream reset.
func (l *line) left() bool { return l.flags == "DC" || l.flags == "DR" }

// told reports whether a client that was told this can be the one of the line, but for one that left.
func (l *line) told(told string) bool {
	cut := l.flags != "-" && l.status == "200" // gRPC's local replies are 200 and whole
	return strings.HasPrefix(told, "left") || told == l.status || cut && told == "200 cut" || l.status == "101" && told == "200"
}

// outcomes are the log's lines by path.
func outcomes(t *testing.T, log string) map[string]*line {
	t.Helper()
	out := map[string]*line{}
	for text := range strings.Lines(log) {
		l := &line{}
		var second, nano, took int64
		if _, err := fmt.Sscanf(text, "%s %s %s %d.%d %d %s %s\n", &l.path, &l.status, &l.flags, &second, &nano, &took, &l.from, &l.details); err != nil {
			t.Errorf("the log says %q: %v", text, err)
			continue
		}
		l.start = time.Unix(second, nano)
		l.end = l.start.Add(time.Duration(took+1) * time.Millisecond) // the log has whole ones
		if was, again := out[l.path]; again {
			t.Errorf("%s is logged twice, as %s and %s", l.path, was.outcome(), l.outcome())
		}
		out[l.path] = l
	}
	return out
}
