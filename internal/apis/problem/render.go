package problem

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

const (
	contextLines    = 2   // shown above the line that is marked
	excerptRunesMax = 160 // of one line; longer ones show the part around the mark
	excerptLead     = 60  // what is kept before the mark then
)

// Render shows problems to a person: code, place, excerpt with the place underlined, effect, hint. sources holds the text of the files by name; without
// it, and for Secrets, the excerpt is left out. Lines are cleaned of control characters.
func Render(problems []Problem, sources map[string][]byte, color bool) string {
	r := renderer{color: color, lines: map[string][]string{}, sources: sources}
	for i, p := range problems {
		if i > 0 {
			r.b.WriteByte('\n')
		}
		r.problem(p)
	}
	return r.b.String()
}

type renderer struct {
	b       strings.Builder
	color   bool
	sources map[string][]byte
	lines   map[string][]string
}

// paint wraps text in the colour of the level (ANSI SGR).
func (r *renderer) paint(level Level, text string) string {
	if !r.color {
		return text
	}
	code := map[Level]string{Error: "1;31", Unsupported: "1;35", Warning: "1;33", Info: "1;36"}[level]
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (r *renderer) problem(p Problem) {
	head := r.paint(p.Level, fmt.Sprintf("%s[%s]", p.Level, p.Code)) + ": "
	if p.Key.Kind != "" {
		head += strings.TrimSuffix(clean(p.Key.Kind+" "+strings.TrimPrefix(p.Key.String(), p.Key.Kind+"/")), " ") + ": "
	}
	fmt.Fprintf(&r.b, "%s%s\n", head, clean(p.Message))
	width := len(strconv.Itoa(p.Position.Line))
	margin := strings.Repeat(" ", max(2, width+1))
	if p.Position.File != "" {
		fmt.Fprintf(&r.b, "%s┌─ %s\n", margin, clean(p.Position.String()))
	}
	if r.excerpt(p, margin) {
		fmt.Fprintf(&r.b, "%s│\n", margin)
	} else if p.Path != "" {
		fmt.Fprintf(&r.b, "%s= field:  %s\n", margin, clean(p.Path))
	}
	if p.Effect != "" {
		fmt.Fprintf(&r.b, "%s= effect: %s\n", margin, clean(p.Effect))
	}
	if p.Hint != "" {
		fmt.Fprintf(&r.b, "%s= hint:   %s\n", margin, clean(p.Hint))
	}
}

// excerpt writes the marked line with those above it, down to the start of the document.
func (r *renderer) excerpt(p Problem, margin string) bool {
	lines := r.file(p.Position.File)
	at := p.Position.Line - 1
	if at < 0 || at >= len(lines) || p.Key.Kind == "Secret" {
		return false
	}
	first := at
	for first > 0 && at-first < contextLines && !strings.HasPrefix(lines[first], "---") {
		first--
	}
	if first < at && strings.HasPrefix(lines[first], "---") {
		first++
	}
	column := max(1, p.Position.Column) - 1
	cut := 0
	if n := len([]rune(lines[at])); n > excerptRunesMax && column > excerptLead {
		cut = column - excerptLead
	}
	fmt.Fprintf(&r.b, "%s│\n", margin)
	for i := first; i <= at; i++ {
		fmt.Fprintf(&r.b, "%*d │ %s\n", len(margin)-1, i+1, window(lines[i], cut))
	}
	if p.Position.Column > 0 {
		length := min(max(1, p.Length), max(1, len([]rune(lines[at]))-column))
		mark := strings.Repeat(" ", column-cut) + r.paint(p.Level, strings.Repeat("^", min(length, excerptRunesMax)))
		if p.Path != "" {
			mark += " " + clean(p.Path)
		}
		fmt.Fprintf(&r.b, "%s│ %s\n", margin, mark)
	}
	return true
}

// window shows the part of a line that fits, from the character cut on.
func window(line string, cut int) string {
	runes := []rune(clean(line))
	cut = min(cut, len(runes))
	runes = runes[cut:]
	if len(runes) > excerptRunesMax {
		runes = append(runes[:excerptRunesMax:excerptRunesMax], '…')
	}
	return string(runes)
}

func (r *renderer) file(name string) []string {
	lines, known := r.lines[name]
	if !known && len(r.sources[name]) > 0 {
		text := strings.TrimPrefix(string(r.sources[name]), "\uFEFF")
		lines = strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
		r.lines[name] = lines
	}
	return lines
}

// clean makes text safe for a terminal: one column for a tab, nothing that moves the cursor or changes colours.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return ' '
		case unicode.IsControl(c) || unicode.Is(unicode.Cf, c):
			return '\uFFFD'
		}
		return c
	}, s)
}
