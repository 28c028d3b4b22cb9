#!/usr/bin/env bash
# Takes mangled files through decode, validate, model, translate and compile:
#   test/fuzz.sh [SECONDS]      10 minutes by default
# It prints how many documents it tried; a failure prints the least text.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-600}"
FUZZ_SECONDS="$seconds" go test ./internal/app -run '^TestMangledFilesNeverPanic$' -count 1 -v -timeout "$((seconds + 120))s"
