package certs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/tullemesh/tulle/internal/identity"
	"github.com/tullemesh/tulle/internal/identity/keyfile"
)

// stateFile holds everything in one file, so that key, chain and roots change
// together or not at all.
const stateFile = "workload.json"

// state is what survives a restart.
type state struct {
	bundle   *identity.Bundle
	obtained time.Time
}

// document is the file's form. It reveals the key, so it stays in this file.
type document struct {
	Version  int       `json:"version"`
	Obtained time.Time `json:"obtained"`
	Chain    string    `json:"chain"`
	Key      string    `json:"key"`
	Roots    string    `json:"roots"`
}

const documentVersion = 1

// save writes the state with mode 0600 to a directory that exists.
func save(directory string, s state) error {
	data, err := json.MarshalIndent(document{
		Version: documentVersion, Obtained: s.obtained.UTC(),
		Chain: string(s.bundle.Chain), Key: string(s.bundle.Key.PEM()), Roots: string(s.bundle.Roots),
	}, "", "  ")
	if err != nil {
		return err
	}
	return keyfile.Replace(filepath.Join(directory, stateFile), append(data, '\n'))
}

// load reads the state. The bundle is checked to be whole, not to be valid.
func load(directory string) (state, error) {
	path := filepath.Join(directory, stateFile)
	data, err := keyfile.Read(path)
	if err != nil {
		return state{}, err
	}
	var d document
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return state{}, fmt.Errorf("%s: data after the document", path)
	}
	if d.Version != documentVersion {
		return state{}, fmt.Errorf("%s: version %d, this program reads version %d", path, d.Version, documentVersion)
	}
	key, err := identity.ParsePrivateKey([]byte(d.Key))
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	b, err := identity.NewBundle([]byte(d.Chain), key, []byte(d.Roots))
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", path, err)
	}
	return state{bundle: b, obtained: d.Obtained}, nil
}
