#!/usr/bin/env bash
# Prints the path of h2spec, the HTTP/2 conformance suite, building it into a
# cache folder when it is not there yet. It stays out of our go.mod: nothing of
# ours imports it, and it is older than modules.
set -euo pipefail
version=2.2.1
home="${XDG_CACHE_HOME:-$HOME/.cache}/tulle-test/h2spec-$version"
if [ ! -x "$home/h2spec" ]; then
  mkdir -p "$home/src"
  cat > "$home/src/go.mod" <<EOF
module h2spec

go 1.26

require (
	github.com/fatih/color v1.19.0
	github.com/spf13/cobra v1.10.2
	github.com/summerwind/h2spec v$version+incompatible
	golang.org/x/net v0.62.0
)
EOF
  (cd "$home/src" && GOFLAGS=-mod=mod go build -o "$home/h2spec.new" github.com/summerwind/h2spec/cmd/h2spec) >&2
  mv "$home/h2spec.new" "$home/h2spec"
fi
echo "$home/h2spec"
