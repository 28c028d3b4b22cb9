#!/usr/bin/env bash
# Prints a folder of Node.js modules with clients of gRPC-Web: Google's grpc-web
# with an XMLHttpRequest for it, and protobuf-ts' transport over fetch. Installs
# the npm packages into a cache folder when they are not there yet.
set -euo pipefail
home="${XDG_CACHE_HOME:-$HOME/.cache}/tulle-test/grpc-web-2.1.1"
if [ ! -e "$home/ready" ]; then
  mkdir -p "$home"
  echo '{"private": true}' > "$home/package.json"
  npm install --prefix "$home" --silent --no-audit --no-fund \
    grpc-web@2.1.1 xhr2@0.2.1 @protobuf-ts/grpcweb-transport@2.11.1 @protobuf-ts/runtime@2.11.1 @protobuf-ts/runtime-rpc@2.11.1 >&2
  touch "$home/ready"
fi
echo "$home"
