#!/usr/bin/env bash
# Prints the path of a Python that has grpcio, gRPC's C core, installing the
# PyPI package into a cache folder when it is not there yet.
set -euo pipefail
version=1.85.1
home="${XDG_CACHE_HOME:-$HOME/.cache}/tulle-test/grpcio-$version"
if [ ! -e "$home/ready" ]; then
  mkdir -p "$home"
  python3 -m venv "$home/venv" >&2
  "$home/venv/bin/pip" install -q "grpcio==$version" >&2
  touch "$home/ready"
fi
echo "$home/venv/bin/python"
