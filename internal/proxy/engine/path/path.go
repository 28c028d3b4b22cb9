// Package path normalizes the paths of requests, so that routes and policies
// read what the application will read (Envoy: normalize_path, merge_slashes,
// path_with_escaped_slashes_action, in its order: unescape, normalize, merge). It
// is pure: bytes in, bytes out, in memory that the caller gives.
package path

import (
	"bytes"
	"errors"
	"slices"

	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

// Why a target is refused.
var (
	ErrSlash = errors.New("escaped slash")
	ErrNUL   = errors.New("escaped NUL")
)

// Normalize does what the connection manager says with a request's target. buf
// is memory to write in, and memory what it grew to; out is the target itself
// where no rule changes it, else a part of memory. redirect: the client is to
// ask for out.
func Normalize(m *listener.HTTPManager, target, buf []byte) (out, memory []byte, redirect bool, err error) {
	if len(target) == 0 || target[0] != '/' {
		return target, buf, false, nil // "*", or CONNECT
	}
	end := bytes.IndexAny(target, "?#")
	if end < 0 {
		end = len(target)
	}
	path, rest := target[:end], target[end:]
	if plain(path) {
		return target, buf, false, nil
	}
	buf = append(buf[:0], path...)
	if m.EscapedSlashes != listener.KeepUnchanged && escapedSlash(buf) {
		if m.EscapedSlashes == listener.RejectRequest {
			return nil, buf, false, ErrSlash
		}
		buf = unescapeSlashes(buf)
		redirect = m.EscapedSlashes == listener.UnescapeAndRedirect
	}
	from := 0
	if m.NormalizePath {
		from = len(buf) // escapes may make it longer, so it is written behind
		var ok bool
		if buf, ok = appendCanonical(buf, buf); !ok {
			return nil, buf, false, ErrNUL
		}
	}
	if m.MergeSlashes {
		buf = buf[:from+len(mergeSlashes(buf[from:]))]
	}
	buf = append(buf, rest...)
	return buf[from:], buf, redirect, nil
}

// plain reports whether no rule could change the path.
func plain(path []byte) bool {
	for i, c := range path {
		switch c {
		case '%', '\\', '"', '<', '>', '^', '`', '{', '|', '}':
			return false
		case '/':
			if i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
				return false
			}
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

// makesEscape reports whether v, which was escaped, would make an escape of the
// lone % in out, with the digit between them or with the one that comes next.
func makesEscape(out []byte, lone int, v byte, next []byte) bool {
	_, digit := hexDigit(v)
	switch {
	case lone < 0 || !digit:
	case lone == len(out)-2:
		_, digit = hexDigit(out[lone+1])
		return digit
	case lone == len(out)-1 && len(next) > 0:
		_, digit = hexDigit(next[0])
		return digit
	}
	return false
}

// appendCanonical appends the normal form of a path, as the URL library has it
// that Envoy uses: escaped unreserved characters become plain (RFC 3986
// §6.2.2.2), those that may not stand in a URI become escaped, backslashes
// become slashes, dot segments are removed (§5.2.4). An escaped NUL has none:
// applications end strings there. path may be dst itself.
func appendCanonical(dst, path []byte) ([]byte, bool) {
	from, lone := len(dst), -1 // lone is the last % that begins no escape
	for i := 0; i < len(path); i++ {
		switch c := path[i]; c {
		case '%':
			v, ok := byte(0), false
			if i+2 < len(path) {
				v, ok = unhex(path[i+1], path[i+2])
			}
			switch {
			case !ok:
				lone = len(dst)
			case v == 0:
				return dst, false
			case unreserved(v):
				c = v
				i += 2
				if makesEscape(dst, lone, v, path[i+1:]) {
					dst = slices.Insert(dst, lone+1, '2', '5')
				}
			}
			dst = append(dst, c)
		case '\\':
			dst = append(dst, '/')
		case '"', '<', '>', '^', '`', '{', '|', '}':
			dst = append(dst, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst[:from+len(removeDots(dst[from:]))], true
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

// withoutParameters is a dot segment without its parameters (RFC 3986 §3.3),
// which applications take for one; other segments are left alone.
func withoutParameters(segment []byte) []byte {
	for _, dots := range [...]string{".;", "..;"} {
		if bytes.HasPrefix(segment, []byte(dots)) {
			return segment[:len(dots)-1]
		}
	}
	return segment
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
		switch segment := withoutParameters(path[i+1 : end]); {
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
