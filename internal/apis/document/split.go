package document

import (
	"strings"

	"github.com/tullemesh/tulle/internal/limit"
)

// chunk is the text of one document.
type chunk struct {
	text string
	line int // of its first line in the file, from 1
}

// split cuts a file at its document markers. A marker at the start of a line ends a document wherever it stands, even
// within a scalar (YAML 1.2 §9.1.2), which is why lines alone suffice and a broken document can't swallow the next.
func split(text string) (chunks []chunk, fits bool) {
	start, startLine, line := 0, 1, 1
	flush := func(end int) bool {
		if c := (chunk{text: text[start:end], line: startLine}); !blank(c.text) {
			if len(chunks) == limit.DocumentsMax {
				return false
			}
			chunks = append(chunks, c)
		}
		return true
	}
	for at := 0; at < len(text); line++ {
		next := len(text)
		if i := strings.IndexByte(text[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		switch written := text[at:next]; {
		case marker(written, "---"):
			if !flush(at) {
				return chunks, false
			}
			start, startLine = at, line
		case marker(written, "..."):
			if !flush(at) {
				return chunks, false
			}
			start, startLine = next, line+1
		}
		at = next
	}
	return chunks, flush(len(text))
}

func marker(line, mark string) bool {
	rest, found := strings.CutPrefix(line, mark)
	return found && (rest == "" || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// blank reports whether the text holds no content: only comments, directives (which we don't need) and a lone marker.
func blank(text string) bool {
	for line := range strings.Lines(text) {
		if marker(line, "---") {
			line = line[3:]
		}
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}
