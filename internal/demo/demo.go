// Package demo is the shop: the small application that `tulle demo` and the guided tour run inside the mesh.
//
// In comes the name of one of its services and an environment as the mesh gives it (PORT, HTTP_PROXY, <SVC>_SERVICE_HOST);
// out goes that service, served until the context ends. The services are
//
//	web → catalog, recommendations, payment (v1, v2);  payment → ledger (TCP, speaks first), provider (outside of the mesh)
//
// Each can be made slow, failing, crashing or another version by its control socket, so that lessons break something real.
// A running service owns its state (switches, ledger entries) and loses it when it ends. The shop's mesh configuration is plain Istio
// YAML beside this file, embedded and written out by Export. Read this file first, then shop.go.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
)

// ErrUnknownService is returned by Run for a name that is not in Names.
var ErrUnknownService = errors.New("unknown demo service")

// ErrCrashed is returned by Run after the crash switch was used: the caller ends with a failure, as a crashed program does.
var ErrCrashed = errors.New("crashed by its control socket")

// Options is what a demo service gets from outside.
type Options struct {
	// Env looks a variable up; absent ones are empty. Read: PORT, HOST, VERSION, HTTP_PROXY, NO_PROXY, <SVC>_SERVICE_HOST,
	// <SVC>_SERVICE_PORT, TULLE_RUN and TULLE_WORKLOAD (see controlPath).
	Env func(string) string
	// Log receives state changes; nil discards them.
	Log *slog.Logger
	// Started, when set, is called with the service's address once it accepts.
	Started func(net.Addr)
}

// Names returns the services of the shop, callers first.
func Names() []string {
	return []string{"web", "catalog", "recommendations", "payment", "ledger", "provider"}
}

// Run serves the shop's service name until ctx ends, then lets running requests finish for shutdownTimeMax.
func Run(ctx context.Context, name string, o Options) error {
	if !slices.Contains(Names(), name) {
		return fmt.Errorf("%w %q, known are %s", ErrUnknownService, name, strings.Join(Names(), ", "))
	}
	if o.Env == nil {
		o.Env = func(string) string { return "" }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	version := o.Env("VERSION")
	if version == "" {
		version = "v1"
	}
	s := &service{name: name, log: o.Log.With(slog.String("service", name)), switches: newSwitches(version)}
	calls, err := newCaller(o.Env)
	if err != nil {
		return err
	}
	s.calls = calls
	defer calls.close()

	var lc net.ListenConfig
	host, port := o.Env("HOST"), o.Env("PORT")
	if host == "" {
		host = "127.0.0.1"
	}
	if port == "" {
		port = "0"
	}
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("listen for demo service %s: %w", name, err)
	}
	ctl, err := listenControl(ctx, controlPath(o.Env))
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	if o.Started != nil {
		o.Started(ln.Addr())
	}
	s.log.Info("serving", slog.String("address", ln.Addr().String()), slog.String("version", version))
	return s.run(ctx, ln, ctl)
}

// service is one running service of the shop.
type service struct {
	name     string
	log      *slog.Logger
	switches *switches
	calls    *caller
}

// run serves traffic and, when there is a control socket, its switches; it returns when both have ended.
func (s *service) run(ctx context.Context, ln, ctl net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.switches.crash = func() { cancel(ErrCrashed) }

	done := make(chan error, 2)
	running := 1
	if ctl != nil {
		running++
		go func() { done <- serveHTTP(ctx, ctl, s.switches.handler()) }()
	}
	go func() {
		if s.name == "ledger" {
			done <- newLedger(s).serve(ctx, ln)
			return
		}
		done <- serveHTTP(ctx, ln, s.limited(s.handler()))
	}()
	var errs error
	for range running {
		if err := <-done; err != nil {
			errs = errors.Join(errs, err)
			cancel(err)
		}
	}
	if errors.Is(context.Cause(ctx), ErrCrashed) {
		return ErrCrashed
	}
	return errs
}
