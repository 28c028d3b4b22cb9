// Package apis reads Istio's, the Gateway API's and Kubernetes' objects from files.
//
// In come the bytes of a YAML or JSON file; out come Objects, each with its API's own Go type, the place of every field, and its
// Problems: invalid (Istio would refuse it too) apart from unsupported (ours to build). All problems of a file come at once, and a bad object never hides a good one.
// A file passes through document (bytes → tree with places), schema (tree → Go types), validate (Istio's verdicts), ledger (what tulle
// enforces); each is a folder here and speaks problem.Problem. Nothing is kept between calls: last good versions are the registry's.
// Read decode.go first, then kinds.go for what is read.
package apis
