package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"time"
)

// Switches is what can be changed in a running service. The zero value of SlowMillis and FailPercent is a healthy service.
type Switches struct {
	// SlowMillis is added to every answer, in milliseconds, at most 60,000.
	SlowMillis int `json:"slowMillis"`
	// FailPercent is the share of requests that fail with 500 (the ledger: ERR), 0 to 100.
	FailPercent int `json:"failPercent"`
	// Version is what the service says that it is; one to 32 letters, digits, dots, dashes.
	Version string `json:"version"`
}

// validate names every switch that is out of its range.
func (s Switches) validate() error {
	var errs error
	if s.SlowMillis < 0 || s.SlowMillis > slowMillisMax {
		errs = errors.Join(errs, fmt.Errorf("slowMillis is %d, allowed are 0 to %d", s.SlowMillis, slowMillisMax))
	}
	if s.FailPercent < 0 || s.FailPercent > 100 {
		errs = errors.Join(errs, fmt.Errorf("failPercent is %d, allowed are 0 to 100", s.FailPercent))
	}
	if ok, err := regexp.MatchString(`^[A-Za-z0-9.-]{1,32}$`, s.Version); err != nil || !ok {
		errs = errors.Join(errs, fmt.Errorf("version is %q, allowed are 1 to 32 letters, digits, dots and dashes", s.Version))
	}
	return errs
}

// switches holds the current Switches of a service; readers never lock.
type switches struct {
	now   atomic.Pointer[Switches]
	crash func() // set by run before anything is served
}

func newSwitches(version string) *switches {
	s := &switches{}
	s.now.Store(&Switches{Version: version})
	return s
}

// apply waits as long as the slow switch says and reports whether this request shall fail.
func (s *switches) apply(ctx context.Context) (fails bool, err error) {
	now := s.now.Load()
	if now.SlowMillis > 0 {
		t := time.NewTimer(time.Duration(now.SlowMillis) * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return now.FailPercent > 0 && rand.IntN(100) < now.FailPercent, nil
}

// handler is the control endpoint: GET and PUT /switches, POST /crash.
func (s *switches) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /switches", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.now.Load()) })
	mux.HandleFunc("PUT /switches", func(w http.ResponseWriter, r *http.Request) {
		next := *s.now.Load() // what is not named stays
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyBytesMax))
		d.DisallowUnknownFields()
		err := d.Decode(&next)
		if err == nil {
			err = next.validate()
		}
		if err != nil {
			writeJSON(w, http.StatusBadRequest, failure{Error: err.Error()})
			return
		}
		s.now.Store(&next)
		writeJSON(w, http.StatusOK, next)
	})
	mux.HandleFunc("POST /crash", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		s.crash()
	})
	return mux
}

// controlPath is the Unix socket of a workload's switches: <TULLE_RUN>/<TULLE_WORKLOAD>.control, or nothing outside of the mesh.
// A Unix socket works in every network namespace and is no port that anyone could reach.
func controlPath(env func(string) string) string {
	if env("TULLE_RUN") == "" || env("TULLE_WORKLOAD") == "" {
		return ""
	}
	return ControlSocket(env("TULLE_RUN"), env("TULLE_WORKLOAD"))
}

// ControlSocket returns the path of a workload's control socket under the run directory that the mesh gave it as TULLE_RUN.
func ControlSocket(runDir, workload string) string { return filepath.Join(runDir, workload+".control") }

// listenControl opens the control socket, over one that a killed service left behind. No path, no socket.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old control socket: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict control socket: %w", err), ln.Close())
	}
	return ln, nil
}

// SetSwitches changes the switches of the service behind a control socket to exactly want.
func SetSwitches(ctx context.Context, socket string, want Switches) error {
	b, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return control(ctx, socket, http.MethodPut, "/switches", b, nil)
}

// GetSwitches reads the switches of the service behind a control socket.
func GetSwitches(ctx context.Context, socket string) (Switches, error) {
	var s Switches
	return s, control(ctx, socket, http.MethodGet, "/switches", nil, &s)
}

// Crash makes the service behind a control socket end with ErrCrashed.
func Crash(ctx context.Context, socket string) error {
	return control(ctx, socket, http.MethodPost, "/crash", nil, nil)
}

// control sends one request to a control socket and decodes the answer into out, when given.
func control(ctx context.Context, socket, method, path string, body []byte, out any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeMax)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("reach control socket %s: %w", socket, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, bodyBytesMax))
	if err != nil {
		return fmt.Errorf("read answer of control socket: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var f failure
		if json.Unmarshal(b, &f) != nil || f.Error == "" {
			f.Error = resp.Status
		}
		return fmt.Errorf("control socket refused: %s", f.Error)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}
