# SPDX-License-Identifier: Apache-2.0
#
# Every target works on a fresh clone with Go, gcc and make, and asks for nothing
# by hand. `make help` lists them.

GO       ?= go
FUZZTIME ?= 1m
TESTARGS ?=
RUNARGS  ?=
BENCHARGS ?=

BIN     := bin/uringpv
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The versions that a release is stamped with; `go build ./...` works without it.
LDFLAGS := -X main.version=$(VERSION)

.DEFAULT_GOAL := build
.PHONY: help build run test test-race check-generated fuzz lint fmt bench generate clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: FUZZTIME=$(FUZZTIME) for each fuzz target; TESTARGS for go test, RUNARGS for"
	@echo "  uringpv run, BENCHARGS for uringpv bench. REQUIRE_KVM=1 and REQUIRE_IO_URING=1 in the"
	@echo "  environment turn the skips on a host without them into failures."

# go build decides by itself what is out of date, so the target always runs.
build: ## build bin/uringpv
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./tools/uringpv

run: build ## build, then run the self-test in a guest, on every backend this host has
	./$(BIN) run --timeout 2m $(RUNARGS)

# One package at a time: polling threads of several would take each other's CPUs.
test: ## vet, generated files, every test
	$(GO) vet ./...
	@$(MAKE) --no-print-directory check-fmt check-generated
	$(GO) test -p 1 -timeout 10m $(TESTARGS) ./...

test-race: ## every test under the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -p 1 -timeout 20m $(TESTARGS) ./...

# go test -fuzz takes one target of one package at a time.
fuzz: ## run each fuzz target for FUZZTIME
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$dir/*_test.go | sort -u); do \
			echo "== $$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
		done; \
	done

.PHONY: check-fmt
check-fmt:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt: run 'make fmt' for:"; echo "$$unformatted"; exit 1; fi

lint: check-fmt ## gofmt, go vet and staticcheck; golangci-lint too where it is installed
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run; \
	else echo "golangci-lint is not installed; go vet and staticcheck have passed"; fi

fmt: ## gofmt every Go file
	gofmt -l -w .

bench: build ## guest against host, 4 KiB random reads, depths 1 and 32
	./$(BIN) bench $(BENCHARGS)

generate: ## rebuild the generated files that are committed (needs gcc)
	$(MAKE) -C guest/bare

check-generated: ## do the committed generated files match their source?
	@$(MAKE) --no-print-directory -C guest/bare check

clean: ## remove what make built
	rm -rf bin
