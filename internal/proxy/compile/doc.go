// Package compile turns xDS v3 resources, of our control plane or of any other
// that sends what Istio sends, into the engine's configuration.
//
// Protobuf messages come in; generation.Config and Problems go out. Every field of
// every message is enforced, inert (listed with the reason why nothing has to be
// done) or refused by name and place: check.go walks the message against the
// table in surface*.go before any converter reads it, so a field that nobody
// listed is refused as soon as somebody sets it. docs/reference/xds.md is
// generated from the same table.
//
// A Compiler is immutable and keeps nothing; Build reuses what did not change by
// pointer. Files named by inline certificates are not read here but by the
// engine's store. Read compile.go first, then surface.go.
package compile
