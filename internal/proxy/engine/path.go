package engine

import (
	"bytes"

	"github.com/tullemesh/tulle/internal/proxy/engine/http1"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// normalizePath does what the connection manager says with the path, so that
// routes and policies read what the application will read (Envoy:
// normalize_path, merge_slashes, path_with_escaped_slashes_action).
func (x *exchange) normalizePath() *Failure {
	h, m := &x.req, x.manager
	if len(h.Path) == 0 || h.Path[0] != '/' {
		return nil // "*", or CONNECT
	}
	end := bytes.IndexAny(h.Path, "?#")
	if end < 0 {
		end = len(h.Path)
	}
	path, rest := h.Path[:end], h.Path[end:]
	if plain(path) {
		return nil
	}
	out := append(x.scratch[:0], path...)
	if m.EscapedSlashes != listener.KeepUnchanged && escapedSlash(out) {
		if m.EscapedSlashes == listener.RejectRequest {
			return &Failure{Kind: BadRequest, Cause: http1.ErrTarget, Detail: "escaped slash"}
		}
		out = unescapeSlashes(out)
		if m.EscapedSlashes == listener.UnescapeAndRedirect {
			x.location = append(bytes.Clone(out), rest...)
			return nil
		}
	}
	if m.NormalizePath {
		out = canonical(out)
	}
	if m.MergeSlashes {
		out = mergeSlashes(out)
	}
	out = append(out, rest...)
	x.scratch = out
	if !bytes.Equal(out, h.Path) {
		h.Set(":path", out)
	}
	return nil
}

// plain reports whether no rule could change the path.
func plain(path []byte) bool {
	for i, c := range path {
		if c == '%' || c == '\\' || c == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
			return false
		}
	}
	return true
}

func escapedSlash(path []byte) bool {
	for i := 0; i+2 < len(path); i++ {
		if path[i] == '%' && slashCode(path[i+1], path[i+2]) != 0 {
			return true
		}
	}
	return false
}

func slashCode(hi, lo byte) byte {
	switch {
	case hi == '2' && lo|0x20 == 'f':
		return '/'
	case hi == '5' && lo|0x20 == 'c':
		return '\\'
	}
	return 0
}

// unescapeSlashes works in place.
func unescapeSlashes(path []byte) []byte {
	out := path[:0]
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c := slashCode(path[i+1], path[i+2]); c != 0 {
				out = append(out, c)
				i += 2
				continue
			}
		}
		out = append(out, path[i])
	}
	return out
}

// canonical works in place: escaped unreserved characters become plain
// (RFC 3986 §6.2.2.2), backslashes become slashes, dot segments are removed
// (§5.2.4), as the URL library does that Envoy uses.
func canonical(path []byte) []byte {
	out := path[:0]
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			if v, ok := unhex(path[i+1], path[i+2]); ok && unreserved(v) {
				out = append(out, v)
				i += 2
				continue
			}
		}
		if c == '\\' {
			c = '/'
		}
		out = append(out, c)
	}
	return removeDots(out)
}

func unhex(hi, lo byte) (byte, bool) {
	h, ok1 := hexDigit(hi)
	l, ok2 := hexDigit(lo)
	return h<<4 | l, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

func unreserved(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '-' || c == '.' || c == '_' || c == '~'
}

// removeDots works in place on a path that begins with a slash.
func removeDots(path []byte) []byte {
	out := path[:0]
	for i := 0; i < len(path); {
		// A segment with the slash before it.
		end := i + 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		switch segment := path[i+1 : end]; {
		case string(segment) == ".":
			if end == len(path) {
				out = append(out, '/')
			}
		case string(segment) == "..":
			if j := bytes.LastIndexByte(out, '/'); j >= 0 {
				out = out[:j]
			}
			if end == len(path) {
				out = append(out, '/')
			}
		default:
			out = append(out, path[i:end]...)
		}
		i = end
	}
	if len(out) == 0 {
		out = append(out, '/')
	}
	return out
}

// mergeSlashes works in place.
func mergeSlashes(path []byte) []byte {
	out := path[:0]
	for i, c := range path {
		if c == '/' && i > 0 && len(out) > 0 && out[len(out)-1] == '/' {
			continue
		}
		out = append(out, c)
	}
	return out
}
