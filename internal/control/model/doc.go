// Package model builds the Snapshot: one immutable, typed, indexed value that
// holds what the mesh is to do, in our own words. Build is pure: registry.Set
// and Mesh in, Snapshot and problems out. The Istio API's types end here.
// An incremental build equals a full build. Read types.go, then snapshot.go.
package model
