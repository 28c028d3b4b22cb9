package validate

import (
	"regexp"
	"slices"
	"strings"
)

var (
	headerToken     = regexp.MustCompile("^[!#$%&'*+\\-.^_`|~A-Za-z0-9]+$")
	strictHeader    = regexp.MustCompile(`^[-_A-Za-z0-9]+$`)
	probeHeader     = regexp.MustCompile(`^[-A-Za-z0-9]+$`)
	headerValueText = regexp.MustCompile("^[^\u0000-\u0008\u000A-\u001F\u007F]*$")
)

const tokenHint = "header names have letters, digits and -"

// claimHeader reports whether the name routes by a claim of a JWT: @request.auth.claims.NAME or @request.auth.claims[NAME].
func claimHeader(name string) bool {
	const prefix = "@request.auth.claims"
	if len(name) < len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
		return false
	}
	rest := name[len(prefix):]
	return strings.HasPrefix(rest, ".") && len(rest) > 1 || strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") && len(rest) > 2
}

// matchedHeader checks the name of a header that a route matches.
func matchedHeader(name string) error {
	switch {
	case name == "":
		return broken(tokenHint, "the name of the header is empty")
	case claimHeader(name), slices.Contains([]string{":method", ":scheme", ":authority", ":path", ":status"}, name), headerToken.MatchString(name):
		return nil
	}
	return broken(tokenHint, "%q is not the name of a header", name)
}

// setHeader checks the name of a header that a route sets; authority says whether Host may be.
func setHeader(name string, authority bool) error {
	pseudo := strings.HasPrefix(name, ":")
	host := strings.EqualFold(name, "host")
	switch {
	case name == "":
		return broken(tokenHint, "the name of the header is empty")
	case authority && isAuthority(name):
		return nil
	case host:
		return broken("use rewrite.authority", "the Host header can't be changed here")
	case pseudo:
		return broken("use rewrite to change the path or authority", "header %q: names that begin with a colon can't be changed here", name)
	}
	return nil
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, ":authority") || strings.EqualFold(name, "host")
}

// headerValue checks a value that a route sets: no control characters, and complete %VARIABLES% of Envoy.
func headerValue(value string) error {
	if !headerValueText.MatchString(value) {
		return broken("remove them", "the value holds control characters")
	}
	rest := value
	for {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return nil
		}
		rest = rest[i+1:]
		switch {
		case rest == "":
			return broken("write %% for a percent sign", "the value ends in a single %%")
		case rest[0] == '%':
			rest = rest[1:]
			continue
		}
		end, err := variable(rest)
		if err != nil {
			return err
		}
		rest = rest[end:]
	}
}

// variable measures NAME% or NAME(...)% at the start of s, both of Envoy's forms of arguments: ["a","b"] and plain text.
func variable(s string) (int, error) {
	open := func() error {
		return broken("close the variable with %, or write %% for a percent sign", "the variable in %q does not end", s)
	}
	i := strings.IndexAny(s, "%(")
	if i < 0 {
		return 0, open()
	}
	if s[i] == '%' {
		return i + 1, nil
	}
	i++
	for i < len(s) && s[i] == ' ' {
		i++
	}
	if i < len(s) && s[i] == '[' {
		end, err := array(s, i+1)
		if err != nil {
			return 0, err
		}
		i = end
		for i < len(s) && s[i] == ' ' {
			i++
		}
		if i == len(s) || s[i] != ')' {
			return 0, broken("", "a ) is missing after ] in %q", s)
		}
	} else {
		for i < len(s) && s[i] != ')' {
			if s[i] == '\\' {
				i++
			}
			i++
		}
	}
	i++
	for i < len(s) && s[i] == ' ' {
		i++
	}
	switch {
	case i >= len(s):
		return 0, open()
	case s[i] != '%':
		return 0, broken("", "a %% is missing after ) in %q", s)
	}
	return i + 1, nil
}

// array measures "a", "b"] from i and gives the place after the bracket.
func array(s string, i int) (int, error) {
	skip := func() {
		for i < len(s) && s[i] == ' ' {
			i++
		}
	}
	for {
		skip()
		if i == len(s) || s[i] != '"' {
			return 0, broken("", `a " is missing in %q`, s)
		}
		for i++; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				i++
			}
		}
		i++
		skip()
		switch {
		case i >= len(s):
			return 0, broken("", "a ] is missing in %q", s)
		case s[i] == ']':
			return i + 1, nil
		case s[i] != ',':
			return 0, broken("", "a comma or ] is missing in %q", s)
		}
		i++
	}
}
