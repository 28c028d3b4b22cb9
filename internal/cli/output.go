package cli

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tullemesh/tulle/internal/cli/call"
	"golang.org/x/term"
	"gopkg.in/yaml.v3"
)

// format is the value of -o.
type format string

// The formats that listings know.
const (
	formatTable format = ""
	formatWide  format = "wide"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
	formatName  format = "name"
)

// outputFlag adds -o with the given formats to a command; its value is checked
// before the command runs.
func outputFlag(cmd *cobra.Command, dst *format, known ...format) {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	cmd.Flags().StringVarP((*string)(dst), "output", "o", "", "output format: "+strings.Join(names, ", "))
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *dst == formatTable {
			return nil
		}
		for _, k := range known {
			if *dst == k {
				return nil
			}
		}
		return call.Usage("-o %s: this command knows %s", *dst, strings.Join(names, ", "))
	}
}

// structured writes v as JSON or YAML with the same field names.
func structured(w io.Writer, f format, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if f == formatYAML {
		var node any
		if err := json.Unmarshal(data, &node); err != nil {
			return err
		}
		enc := yaml.NewEncoder(w)
		enc.SetIndent(2)
		if err := enc.Encode(node); err != nil {
			return err
		}
		return enc.Close()
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// table prints aligned columns: header words in capitals, two spaces between
// columns, nothing behind the last one.
type table struct {
	rows [][]string
}

func newTable(header ...string) *table { return &table{rows: [][]string{header}} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	var width []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		line := ""
		for i, cell := range row {
			line += cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2)
		}
		b.WriteString(strings.TrimRight(line, " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// color reports whether colour may be used on w: a terminal, and neither
// --no-color nor NO_COLOR (no-color.org); CLICOLOR_FORCE overrides a pipe.
func (c *console) color(w io.Writer) bool {
	if c.noColor || c.environment("NO_COLOR") != "" {
		return false
	}
	if f := c.environment("CLICOLOR_FORCE"); f != "" && f != "0" {
		return true
	}
	return terminal(w)
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
