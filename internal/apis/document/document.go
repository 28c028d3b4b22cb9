// Package document turns the bytes of a configuration file into trees whose every node knows its line and column.
//
// In comes a file (YAML of one or many documents, or JSON, which YAML contains); out come Documents, each with a tree
// or with the problems that kept it from having one: syntax, duplicate keys, limits. One broken document does not hide its neighbours.
// Aliases and merge keys are resolved here, within limits, so readers see plain maps, lists and scalars. Nothing is kept between calls.
// Read this file first, then node.go; split.go cuts the file and convert.go builds the tree.
package document

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

// Document is one YAML document of a file.
type Document struct {
	Root     *Node // nil when the document could not be read
	Text     string
	Problems []problem.Problem // with position (without the file's name), code, level, message
}

// Parse reads all documents of a file. Documents that hold only comments are left out. The second result is of the file as a whole.
func Parse(data []byte) ([]Document, []problem.Problem) {
	if len(data) > limit.FileBytesMax {
		return nil, []problem.Problem{fault(1, 1, problem.CodeLimit,
			fmt.Sprintf("the file has %d bytes, the limit is %d", len(data), limit.FileBytesMax), "split it into several files")}
	}
	if len(data) >= 2 && (data[0] == 0xFE && data[1] == 0xFF || data[0] == 0xFF && data[1] == 0xFE) {
		return nil, []problem.Problem{fault(1, 1, problem.CodeSyntax, "the file is UTF-16, not UTF-8", "save it as UTF-8")}
	}
	text := strings.TrimPrefix(string(data), "\uFEFF")
	chunks, fits := split(text)
	var docs []Document
	for _, c := range chunks {
		docs = append(docs, read(c))
	}
	if fits {
		return docs, nil
	}
	return docs, []problem.Problem{fault(1, 1, problem.CodeLimit,
		fmt.Sprintf("the file has more than %d documents; those after are not read", limit.DocumentsMax), "split it into several files")}
}

// read parses one chunk.
func read(c chunk) Document {
	d := Document{Text: c.text}
	if len(c.text) > limit.DocumentBytesMax {
		d.Problems = append(d.Problems, fault(c.line, 1, problem.CodeLimit,
			fmt.Sprintf("the document has %d bytes, the limit is %d", len(c.text), limit.DocumentBytesMax), "split it into several objects"))
		return d
	}
	if p, bad := badText(c); bad {
		d.Problems = append(d.Problems, p)
		return d
	}
	var y yaml.Node
	if err := unmarshal(c.text, &y); err != nil {
		d.Problems = append(d.Problems, syntaxProblem(c, err))
		return d
	}
	if len(y.Content) == 0 {
		return d
	}
	v := converter{lineBase: c.line - 1, building: map[*yaml.Node]bool{}, built: map[*yaml.Node]*Node{}}
	root := v.node(y.Content[0], 1)
	d.Problems = append(d.Problems, v.problems...)
	if !v.broken {
		d.Root = root
	}
	return d
}

// unmarshal guards the parser: a file must not be able to stop the control plane, whatever a library does with it.
func unmarshal(text string, y *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	d := yaml.NewDecoder(strings.NewReader(text))
	if err := d.Decode(y); err != nil {
		return err
	}
	var after yaml.Node
	switch err := d.Decode(&after); {
	case err == nil:
		return fmt.Errorf("yaml: line %d: text after the end of the document", after.Line)
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// badText finds bytes that are no text: the parser's own message has no line.
func badText(c chunk) (problem.Problem, bool) {
	line, column := c.line, 1
	for i := 0; i < len(c.text); {
		r, n := utf8.DecodeRuneInString(c.text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return fault(line, column, problem.CodeSyntax, fmt.Sprintf("byte 0x%02X is not UTF-8", c.text[i]), "save the file as UTF-8"), true
		case r < 0x20 && r != '\n' && r != '\r' && r != '\t', r >= 0x7F && r < 0xA0 && r != 0x85, r == 0xFFFE, r == 0xFFFF: // YAML 1.2 §5.1
			return fault(line, column, problem.CodeSyntax, fmt.Sprintf("control character U+%04X", r), `remove it, or write it as an escape in double quotes`), true
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
		i += n
	}
	return problem.Problem{}, false
}

// The forms of the parser's errors.
var (
	syntaxLine    = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntaxProblem places the parser's error. The parser tells a line at most, so the column is the first character of that line.
func syntaxProblem(c chunk, err error) problem.Problem {
	message, line := err.Error(), 1
	if m := syntaxLine.FindStringSubmatch(message); m != nil {
		message = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
			if strings.HasPrefix(message, "did not find expected") && !strings.Contains(message, "alphabetic") {
				line++ // the library counts the lines of these from 0
			}
		} else if name := unknownAnchor.FindStringSubmatch(message); name != nil {
			line = 1 + strings.Count(c.text[:max(0, strings.Index(c.text, "*"+name[1]))], "\n")
		}
	}
	lines := strings.Split(c.text, "\n")
	line = max(1, min(line, len(lines)))
	hint := ""
	if strings.Contains(message, "tab character") { // the parser tells where the block began
		for n := line; n <= len(lines); n++ {
			if rest := strings.TrimLeft(lines[n-1], " "); strings.HasPrefix(rest, "\t") {
				line = n
				break
			}
		}
	}
	written := strings.TrimRight(lines[line-1], "\r")
	switch {
	case strings.Contains(message, "tab character"):
		hint = "indent with spaces"
	case strings.HasPrefix(strings.TrimLeft(written, " "), "\t") || strings.Contains(message, "cannot start any token"):
		hint = "indent with spaces: YAML allows no tabs there, and text that begins with @ or ` needs quotes"
	case strings.Contains(message, "mapping values are not allowed"):
		hint = `text with ": " in it needs quotes; or the indentation of this line differs from its neighbours`
	case strings.Contains(message, "did not find expected key"):
		hint = "compare the indentation of this line with the lines around it"
	case strings.Contains(message, "unknown anchor"):
		hint = "text that begins with * needs quotes"
	}
	column := 1 + len(written) - len(strings.TrimLeft(written, " \t"))
	p := fault(c.line+line-1, column, problem.CodeSyntax, "not YAML: "+message, hint)
	p.Length = utf8.RuneCountInString(strings.TrimSpace(written))
	return p
}

// fault is a problem of level error without object or path.
func fault(line, column int, code, message, hint string) problem.Problem {
	return problem.Problem{Code: code, Level: problem.Error, Position: problem.Position{Line: line, Column: column}, Message: message, Hint: hint}
}
