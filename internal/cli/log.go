package cli

import (
	"log/slog"

	"github.com/spf13/cobra"
)

// logLevel is the --log-level flag. The level can change while the command
// runs.
type logLevel struct{ level slog.LevelVar }

func (l *logLevel) flag(cmd *cobra.Command) {
	cmd.Flags().Var(l, "log-level", "debug, info, warn or error")
}

// String implements pflag.Value.
func (l *logLevel) String() string { return l.level.Level().String() }

// Set implements pflag.Value.
func (l *logLevel) Set(text string) error { return l.level.UnmarshalText([]byte(text)) }

// Type implements pflag.Value.
func (l *logLevel) Type() string { return "level" }
