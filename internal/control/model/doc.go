// Package model builds the Snapshot: one immutable, typed, indexed value that
// holds what the mesh is to do, in our own words. Build is pure: registry.Set
// and Mesh in, Snapshot and problems out. The Istio API's types end here.
//
// Nobody owns a Snapshot: it is values only. Built with the one before, it shares
// what did not change by pointer, and equals a full build all the same
// (property_test.go). Read types.go first, then snapshot.go (what can be asked) and
// build.go (how it comes about); each kind of object has a file of its own.
package model
