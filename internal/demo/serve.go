package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// failure is the body of every answer that is not a success.
type failure struct {
	Service string `json:"service,omitempty"`
	Version string `json:"version,omitempty"`
	Error   string `json:"error"`
}

// serveHTTP serves h on ln until ctx ends and then waits for running requests, at most shutdownTimeMax.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, MaxHeaderBytes: headerBytesMax,
		ReadHeaderTimeout: readTimeMax, ReadTimeout: readTimeMax, IdleTimeout: idleTimeMax,
		WriteTimeout: callTimeMax + slowMillisMax*time.Millisecond,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeMax)
	defer cancel()
	err := srv.Shutdown(end)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests still running after %v: %w", shutdownTimeMax, err), srv.Close())
	}
	<-served
	return err
}

// limited puts the service's limits and switches before h. Readiness is asked by the mesh, not by users, and skips both.
func (s *service) limited(h http.Handler) http.Handler {
	slots := make(chan struct{}, requestsInFlightMax)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusOK)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			s.fail(w, http.StatusServiceUnavailable, fmt.Sprintf("more than %d requests at once", requestsInFlightMax))
			return
		}
		fails, err := s.switches.apply(r.Context())
		if err != nil {
			return // the caller is gone
		}
		if fails {
			s.fail(w, http.StatusInternalServerError, "failing because its fail switch is on")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
		h.ServeHTTP(w, r)
	})
}

func (s *service) version() string { return s.switches.now.Load().Version }

// fail answers with a status and says which service it is.
func (s *service) fail(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, failure{Service: s.name, Version: s.version(), Error: reason})
}

// writeJSON answers with v; a client that has left is not an error of ours.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
