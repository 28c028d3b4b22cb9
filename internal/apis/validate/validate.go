// Package validate gives Istio's verdict on Istio's objects: what istiod's webhook refuses is an error here, what it warns about a warning.
//
// In comes a decoded spec with the object's metadata; out come problems with field paths, reasons and remedies, all of them. The rules are those of Istio's
// pkg/config/validation, measured against its own test tables; patterns are compiled by package match, which the proxy runs. What tulle does not enforce is
// the ledger's business, not this package's. Nothing is kept between calls. Read this file first, then names.go; each kind has its file.
package validate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	extensions "istio.io/api/extensions/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	networkingbeta "istio.io/api/networking/v1beta1"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Meta is the metadata that rules look at.
type Meta struct {
	Namespace   string
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// Object checks one object of Istio. Paths begin with "spec" or "metadata".
func Object(meta Meta, spec proto.Message) []problem.Problem {
	c := &checker{meta: meta}
	c.annotations(spec)
	switch s := spec.(type) {
	case *networking.VirtualService:
		c.virtualService(s)
	case *networking.DestinationRule:
		c.destinationRule(s)
	case *networking.Gateway:
		c.gateway(s)
	case *networking.ServiceEntry:
		c.serviceEntry(s)
	case *networking.WorkloadEntry:
		c.workloadEntry(s, "spec", nil, true)
	case *networking.WorkloadGroup:
		c.workloadGroup(s)
	case *networking.Sidecar:
		c.sidecar(s)
	case *networking.EnvoyFilter:
		c.envoyFilter(s)
	case *networkingbeta.ProxyConfig:
		c.proxyConfig(s)
	case *security.PeerAuthentication:
		c.peerAuthentication(s)
	case *security.RequestAuthentication:
		c.requestAuthentication(s)
	case *security.AuthorizationPolicy:
		c.authorizationPolicy(s)
	case *telemetry.Telemetry:
		c.telemetry(s)
	case *extensions.WasmPlugin:
		c.wasmPlugin(s)
	case *extensions.TrafficExtension:
		c.trafficExtension(s)
	}
	return c.problems
}

// checker collects the problems of one object.
type checker struct {
	meta     Meta
	problems []problem.Problem
}

func (c *checker) add(level problem.Level, code, path, hint, message string) {
	c.problems = append(c.problems, problem.Problem{Code: code, Level: level, Path: path, Message: message, Hint: hint})
}

// errorf refuses the object for the field at path.
func (c *checker) errorf(path, hint, format string, args ...any) {
	c.add(problem.Error, problem.CodeInvalid, path, hint, fmt.Sprintf(format, args...))
}

// warnf accepts the object and says what is suspicious.
func (c *checker) warnf(path, hint, format string, args ...any) {
	c.add(problem.Warning, problem.CodeSuspicious, path, hint, fmt.Sprintf(format, args...))
}

// check refuses the object when err is set; the hint comes with it.
func (c *checker) check(path string, err error) {
	if err == nil {
		return
	}
	var r *rule
	if errors.As(err, &r) {
		c.errorf(path, r.hint, "%s", r.message)
		return
	}
	c.errorf(path, "", "%s", err.Error())
}

// rule is a broken rule with its remedy.
type rule struct{ message, hint string }

func (r *rule) Error() string { return r.message }

func broken(hint, format string, args ...any) error {
	return &rule{message: fmt.Sprintf(format, args...), hint: hint}
}

// index and child build paths.
func index(path, field string, i int) string { return path + "." + field + "[" + strconv.Itoa(i) + "]" }
func child(path, key string) string          { return document.Join(path, key) }

// sortedKeys makes findings come in one order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// duration checks a duration when it is written: a millisecond at least, and no fraction of one.
func (c *checker) duration(path string, d *durationpb.Duration) {
	if d != nil {
		c.check(path, durationRule(d))
	}
}

// annotations applies the rules for annotations that Istio reads on every kind.
func (c *checker) annotations(spec proto.Message) {
	const dryRun = "istio.io/dry-run"
	at := func(key string) string { return child("metadata.annotations", key) }
	if value, found := c.meta.Annotations[dryRun]; found {
		policy, ok := spec.(*security.AuthorizationPolicy)
		switch _, err := strconv.ParseBool(value); {
		case !ok:
			c.errorf(at(dryRun), "remove the annotation", "%s works on AuthorizationPolicy only", dryRun)
		case policy.Action != security.AuthorizationPolicy_ALLOW && policy.Action != security.AuthorizationPolicy_DENY:
			c.errorf(at(dryRun), "remove the annotation", "%s works with the actions ALLOW and DENY only, found %s", dryRun, policy.Action)
		case err != nil:
			c.errorf(at(dryRun), `write "true" or "false"`, "%q is neither true nor false", value)
		}
	}
	for _, key := range []string{"internal.istio.io/webhook-always-reject", "internal.istio.io/parents", "internal.istio.io/parent-namespace"} {
		if _, found := c.meta.Annotations[key]; found {
			c.errorf(at(key), "remove the annotation", "%s is set by Istio itself, never by users", key)
		}
	}
}

// quoteList shows words as a list.
func quoteList(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, ", ")
}
