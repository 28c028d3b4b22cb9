package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tullemesh/tulle/internal/proxy/engine/router"
	"github.com/tullemesh/tulle/internal/wire"
)

// parseFormat splits a header value into literals and command operators
// ("%REQ(x-user)%"); "%%" is a percent sign. It returns nil for a value without
// operators, and refuses operators that the engine does not evaluate.
func parseFormat(s string) ([]router.ValuePart, error) {
	if !strings.Contains(s, "%") {
		return nil, nil
	}
	var parts []router.ValuePart
	literal := func(text string) {
		if n := len(parts); n > 0 && parts[n-1].Operator == "" {
			parts[n-1].Literal += text
		} else if text != "" {
			parts = append(parts, router.ValuePart{Literal: text})
		}
	}
	for s != "" {
		before, rest, found := strings.Cut(s, "%")
		literal(before)
		if !found {
			break
		}
		if strings.HasPrefix(rest, "%") {
			literal("%")
			s = rest[1:]
			continue
		}
		operator, arg, after, err := parseOperator(rest)
		if err != nil {
			return nil, err
		}
		parts = append(parts, router.ValuePart{Operator: operator, Arg: arg})
		s = after
	}
	return parts, nil
}

// parseOperator reads `NAME%` or `NAME(ARG)%`.
func parseOperator(s string) (operator, arg, rest string, err error) {
	end := strings.IndexAny(s, "%(")
	if end < 0 {
		return "", "", "", fmt.Errorf("operator %q has no closing %%", s)
	}
	operator, rest = s[:end], s[end:]
	if rest[0] == '(' {
		var found bool
		arg, rest, found = strings.Cut(rest[1:], ")")
		if !found {
			return "", "", "", fmt.Errorf("operator %q has no closing parenthesis", s)
		}
	}
	if !strings.HasPrefix(rest, "%") {
		return "", "", "", fmt.Errorf("operator %s: only %%NAME%% and %%NAME(ARG)%% are supported", operator)
	}
	if !slices.Contains(router.Operators(), operator) {
		return "", "", "", fmt.Errorf("operator %%%s%% is not supported", operator)
	}
	if operator == "REQ" {
		arg = strings.ToLower(arg)
		if strings.Contains(arg, "?") {
			return "", "", "", fmt.Errorf("operator %%REQ(%s)%%: an alternative header is not supported", arg)
		}
	}
	return operator, arg, rest[1:], nil
}

// istioConfig is the path under which Istio names an object in
// filter_metadata["istio"].config.
var istioConfig = regexp.MustCompile(`^/apis/[^/]+/[^/]+/namespaces/([^/]+)/([^/]+)/([^/]+)$`)

// origin reads where a resource comes from: our own origin, else what Istio
// says. It is encoded (wire.Origin) or empty.
func origin(m *corev3.Metadata) string {
	if own := m.GetFilterMetadata()[wire.MetadataKey].GetFields()[wire.OriginField].GetStringValue(); own != "" {
		return own
	}
	config := m.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
	parts := istioConfig.FindStringSubmatch(config)
	if parts == nil {
		return ""
	}
	var kind strings.Builder
	for word := range strings.SplitSeq(parts[2], "-") {
		if word != "" {
			kind.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return wire.Origin{Kind: kind.String(), Namespace: parts[1], Name: parts[3]}.Encode()
}
