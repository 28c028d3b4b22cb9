// Command tulle-proxy is the data plane alone, for the sidecar image: `tulle
// proxy` without the control plane and the commands that ask it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/cli/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := proxy.Run(ctx, os.Args[1:], call.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
