// Package call is what one call of a program consists of: the standard
// streams, the exit codes and the errors that lead to them, and the flags that
// several commands share. tulle and tulle-proxy are called alike.
//
// In come a command tree and the words of the call, out goes an exit code. It
// keeps no state and knows no plane. Read Run first.
package call

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Version is what `version` prints and what proxies announce.
const Version = "0.1.0-dev"

// Exit codes of every command.
const (
	OK          = 0
	Failure     = 1
	Misused     = 2 // the words of the call are off
	Findings    = 3 // what was checked has errors
	NotFound    = 4 // what was named does not exist
	Unreachable = 5 // nobody answers
	Interrupted = 130
)

// Streams are the standard streams of one call.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Error ends a command with a code. A nil Err prints nothing more: the command
// has said what there is to say.
type Error struct {
	Code int
	Err  error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Usage says that the words of the call are off.
func Usage(format string, args ...any) error {
	return &Error{Code: Misused, Err: fmt.Errorf(format, args...)}
}

// NoArgs refuses positional arguments with a usage error.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usage("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// Run runs one command line of root and returns its exit code. What went wrong
// is told on the stream for errors, help named after usage errors.
func Run(ctx context.Context, root *cobra.Command, args []string, std Streams) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &Error{Code: Misused, Err: err} })
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return OK
	}
	var ex *Error
	switch {
	case errors.As(err, &ex):
		if ex.Err != nil {
			fmt.Fprintln(std.Err, "error:", ex.Err)
		}
		if ex.Code == Misused {
			help := "help"
			if !root.HasSubCommands() {
				help = "--help"
			}
			fmt.Fprintln(std.Err, "see:", root.Name(), help)
		}
		return ex.Code
	case ctx.Err() != nil:
		return Interrupted
	default:
		fmt.Fprintln(std.Err, "error:", err)
		return Failure
	}
}
