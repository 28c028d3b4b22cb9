// Package cli is the command line: flags in, calls of app, tables or JSON out.
// It decides nothing about the mesh. Environment variables are read here and
// nowhere else. Data goes to standard output, everything else to standard
// error. Read cli.go first; each command has a file of its own.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Version is what `tulle version` prints and what proxies announce.
const Version = "0.1.0-dev"

// Exit codes of every command.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitFindings    = 3
	exitNotFound    = 4
	exitUnreachable = 5
	exitInterrupted = 130
)

// Streams are the standard streams of one run.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// exitError ends a command with a code. A nil err prints nothing more: the
// command has said what there is to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError says that the words of the call are off.
func usageError(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, args []string, std Streams) int {
	c := &console{Streams: std, environment: os.Getenv, args: args}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var ex *exitError
	switch {
	case errors.As(err, &ex):
		if ex.err != nil {
			fmt.Fprintln(std.Err, "error:", ex.err)
		}
		if ex.code == exitUsage {
			fmt.Fprintln(std.Err, "see: tulle help")
		}
		return ex.code
	case ctx.Err() != nil:
		return exitInterrupted
	default:
		fmt.Fprintln(std.Err, "error:", err)
		return exitFailure
	}
}

// console is what all commands share: streams, environment, colour.
type console struct {
	Streams
	environment func(string) string
	args        []string // as called
	noColor     bool
	// rootlessInside: we are root of a user namespace that we made.
	rootlessInside bool
}

func (c *console) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "tulle",
		Short:         "a service mesh that speaks Istio's API",
		Long:          "tulle runs a service mesh from Istio YAML: on a laptop, on virtual machines, in a cluster.\n\nStart with:  tulle demo",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("no command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&c.noColor, "no-color", false, "print without colour (also NO_COLOR)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{code: exitUsage, err: err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(c.hidden()...)
	root.AddCommand(c.demoCommand(), c.upCommand(), c.downCommand(), c.serveCommand(), c.proxyCommand(), c.statusCommand(), c.proxyStatusCommand(), c.proxyConfigCommand(),
		c.getCommand(), c.analyzeCommand(), c.explainCommand(), c.versionCommand())
	return root
}

func (c *console) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(c.Out, "tulle", Version)
			return nil
		},
	}
}

// oneArg accepts one argument or none.
func oneArg(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError("%s takes one argument, got also %q", cmd.CommandPath(), args[1])
	}
	return nil
}

// noArgs refuses positional arguments with a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}
