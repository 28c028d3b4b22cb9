// Package cli is the command line: flags in, calls of app, tables or JSON out.
// It decides nothing about the mesh. Environment variables are read here and
// nowhere else. Data goes to standard output, everything else to standard
// error. Read cli.go first; each command has a file of its own.
package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/cli/call"
	"github.com/tullemesh/tulle/internal/cli/proxy"
)

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, args []string, std call.Streams) int {
	c := &console{Streams: std, environment: os.Getenv, args: args}
	return call.Run(ctx, c.root(), args, std)
}

// console is what all commands share: streams, environment, colour.
type console struct {
	call.Streams
	environment func(string) string
	args        []string // as called
	noColor     bool
	// rootlessInside: we are root of a user namespace that we made.
	rootlessInside bool
}

func (c *console) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tulle",
		Short: "a service mesh that speaks Istio's API",
		Long:  "tulle runs a service mesh from Istio YAML: on a laptop, on virtual machines, in a cluster.\n\nStart with:  tulle demo",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return call.Usage("no command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&c.noColor, "no-color", false, "print without colour (also NO_COLOR)")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(c.hidden()...)
	root.AddCommand(c.demoCommand(), c.upCommand(), c.downCommand(), c.serveCommand(), proxy.Command("tulle proxy", c.Streams), c.statusCommand(), c.proxyStatusCommand(), c.proxyConfigCommand(),
		c.getCommand(), c.analyzeCommand(), c.explainCommand(), c.versionCommand())
	return root
}

func (c *console) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  call.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(c.Out, "tulle", call.Version)
			return nil
		},
	}
}

// oneArg accepts one argument or none.
func oneArg(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return call.Usage("%s takes one argument, got also %q", cmd.CommandPath(), args[1])
	}
	return nil
}
