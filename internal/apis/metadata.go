package apis

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// The forms of names in Kubernetes (RFC 1123 labels and subdomains; qualified names of labels).
var (
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	labelName    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

const (
	subdomainBytesMax = 253
	labelBytesMax     = 63
)

// checkMetadata applies Kubernetes' rules for names and labels.
func checkMetadata(meta *metav1.ObjectMeta) []Problem {
	var found []Problem
	add := func(path, message, hint string) {
		found = append(found, Problem{Code: problem.CodeMetadata, Level: LevelError, Path: path, Message: message, Hint: hint})
	}
	switch {
	case meta.Name == "" && meta.GenerateName != "":
		add("metadata.generateName", "a file needs a name, and generateName makes one only in a cluster", "write metadata.name")
	case meta.Name == "":
		add("metadata", "the object has no name", "write metadata.name")
	case len(meta.Name) > subdomainBytesMax || !dnsSubdomain.MatchString(meta.Name):
		add("metadata.name", fmt.Sprintf("%q is not a name", meta.Name), "names have lower-case letters, digits, - and ., at most 253")
	}
	if meta.Namespace != "" && (len(meta.Namespace) > labelBytesMax || !dnsLabel.MatchString(meta.Namespace)) {
		add("metadata.namespace", fmt.Sprintf("%q is not a namespace", meta.Namespace), "namespaces have lower-case letters, digits and -, at most 63")
	}
	for _, key := range slices.Sorted(maps.Keys(meta.Labels)) {
		path := document.Join("metadata.labels", key)
		if !qualifiedName(key) {
			add(path, fmt.Sprintf("label key %q is not valid", key), "keys are [prefix/]name with letters, digits, -, _ and ., the name at most 63")
		}
		if v := meta.Labels[key]; v != "" && (len(v) > labelBytesMax || !labelName.MatchString(v)) {
			add(path, fmt.Sprintf("label value %q is not valid", v), "values have letters, digits, -, _ and ., at most 63")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(meta.Annotations)) {
		if !qualifiedName(strings.ToLower(key)) {
			add(document.Join("metadata.annotations", key), fmt.Sprintf("annotation key %q is not valid", key), "keys are [prefix/]name with letters, digits, -, _ and ., the name at most 63")
		}
	}
	return found
}

func qualifiedName(key string) bool {
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		if len(prefix) > subdomainBytesMax || !dnsSubdomain.MatchString(prefix) {
			return false
		}
		name = rest
	}
	return len(name) <= labelBytesMax && labelName.MatchString(name)
}
