package call_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/cli/call"
)

func TestHowACommandEndsIsToldByCodeAndWords(t *testing.T) {
	errOdd := errors.New("odd")
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		name  string
		ctx   context.Context
		words []string
		err   error
		code  int
		told  string
	}{
		{"all is well", t.Context(), nil, nil, call.OK, ""},
		{"an error", t.Context(), nil, errOdd, call.Failure, "error: odd\n"},
		{"an error with a code", t.Context(), nil, &call.Error{Code: call.NotFound, Err: errOdd}, call.NotFound, "error: odd\n"},
		{"a code alone", t.Context(), nil, &call.Error{Code: call.Findings}, call.Findings, ""},
		{"interrupted", ended, nil, errOdd, call.Interrupted, ""},
		{"wrong words", t.Context(), nil, call.Usage("no %s", "way"), call.Misused, "error: no way\nsee: prog --help\n"},
		{"an argument too many", t.Context(), []string{"more"}, nil, call.Misused, "error: prog takes no arguments, got \"more\"\nsee: prog --help\n"},
		{"an unknown flag", t.Context(), []string{"--odd"}, nil, call.Misused, "error: unknown flag: --odd\nsee: prog --help\n"},
		{"an unknown level", t.Context(), []string{"--log-level", "loud"}, nil, call.Misused, "error: invalid argument \"loud\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var level call.LogLevel
			cmd := &cobra.Command{Use: "prog", Args: call.NoArgs, RunE: func(*cobra.Command, []string) error { return c.err }}
			level.Flag(cmd)
			var told bytes.Buffer
			if code := call.Run(c.ctx, cmd, c.words, call.Streams{Out: &told, Err: &told}); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.HasPrefix(told.String(), c.told) || c.told == "" && told.Len() > 0 {
				t.Errorf("told %q, want %q", told.String(), c.told)
			}
		})
	}
}
