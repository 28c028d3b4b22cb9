// Command tulle is the whole mesh in one program: control plane, data plane
// and the commands to run and ask them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tullemesh/tulle/internal/cli"
	"github.com/tullemesh/tulle/internal/cli/call"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], call.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
