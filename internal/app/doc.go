// Package app is the composition root: it builds the rooms of both planes,
// starts and stops their runners, and answers the questions that need both
// planes at once (explain). It is the only package that imports both.
//
// In come options from the command line; out go running planes and answers.
// Read serve.go for the control plane, proxy.go for the data plane, explain.go
// for questions over files, mesh.go for the whole mesh on one machine.
package app
