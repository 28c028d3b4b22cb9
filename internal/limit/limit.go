// Package limit names every bound on what a peer, or a file, can make grow: one constant each, with its default, its unit in the last word or
// the comment, and the reason for the number.
//
// Nothing comes in and nothing goes out: there are only constants, one file per room that enforces them (apis.go: configuration files).
// A constant stands here when outside bytes can reach it; tunables of our own code stay beside that code.
package limit
