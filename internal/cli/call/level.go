package call

import (
	"log/slog"

	"github.com/spf13/cobra"
)

// LogLevel is the --log-level flag. The level can change while the command
// runs.
type LogLevel struct{ slog.LevelVar }

// Flag adds the flag to a command.
func (l *LogLevel) Flag(cmd *cobra.Command) {
	cmd.Flags().Var(l, "log-level", "debug, info, warn or error")
}

// String implements pflag.Value.
func (l *LogLevel) String() string { return l.Level().String() }

// Set implements pflag.Value.
func (l *LogLevel) Set(text string) error { return l.UnmarshalText([]byte(text)) }

// Type implements pflag.Value.
func (l *LogLevel) Type() string { return "level" }
