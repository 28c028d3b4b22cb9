//go:build conformance

package grpc_test

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"
)

// serve is the interop server as a program of a mesh.
func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	s := newServer()
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

// call is a program that calls: it writes down where its sidecar takes calls
// to the server, and waits.
func call() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	at := net.JoinHostPort(os.Getenv("SERVER_SERVICE_HOST"), os.Getenv("SERVER_SERVICE_PORT"))
	place := os.Getenv("PLACE")
	if err := os.WriteFile(place+".new", []byte(at), 0o600); err != nil {
		return err
	}
	if err := os.Rename(place+".new", place); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
