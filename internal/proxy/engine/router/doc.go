// Package router decides where a request goes: a Table of virtual hosts and
// routes in, a Route out, by Envoy's rules (config.route.v3). It also builds
// what the route asks for: the rewritten path, the location of a redirect, the
// header mutations.
//
// Everything is a pure function over an immutable Table and a fact.Request;
// nothing here owns state, waits or looks at a clock. The plain path (exact
// host, prefix and header matches, one or several clusters) allocates nothing.
// Read types.go first, then table.go.
package router
