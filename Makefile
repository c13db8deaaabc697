# SPDX-License-Identifier: Apache-2.0
#
# Every target works on a fresh clone with Go, gcc and make, and asks for nothing
# by hand. `make help` lists them.

GO       ?= go
FUZZTIME ?= 1m
TESTARGS ?=
RUNARGS  ?=
BENCHARGS ?=

# Of bench-go and bench-compare: packages, which benchmarks, how often and how long.
# The commits of bench-compare.
GOBENCH_PACKAGES ?= ./internal/shm ./memmap ./hostring ./device/uringpv/relay ./vmm/bus
GOBENCH   ?= Load64|CopyOutPage|FromUser|View|Ring$$|GuestRings|Translate|Take|Nop$$|Dispatch
BENCHTIME ?= 200ms
COUNT     ?= 6
OLD       ?= HEAD~1
NEW       ?= HEAD

NESTEDARGS ?=

BIN     := bin/uringpv
NESTED  := bin/nested
GUEST   := bin/guest
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The versions that a release is stamped with; `go build ./...` works without it.
LDFLAGS := -X main.version=$(VERSION)

.DEFAULT_GOAL := build
.PHONY: help build run nested linux test test-nested test-nested-full test-race check-generated fuzz fuzz-linux lint fmt bench bench-go bench-compare features generate clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: FUZZTIME=$(FUZZTIME) for each fuzz target; TESTARGS for go test, RUNARGS for"
	@echo "  uringpv run, BENCHARGS for uringpv bench, NESTEDARGS for nested test. REQUIRE_KVM=1 and REQUIRE_IO_URING=1 in the"
	@echo "  environment turn the skips on a host without them into failures."

# go build decides by itself what is out of date, so the target always runs.
build: ## build bin/uringpv
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./tools/uringpv

run: build ## build, then run the self-test in a guest, on every backend this host has
ifneq ($(wildcard /dev/kvm),)
	./$(BIN) run --timeout 2m $(RUNARGS)
else
	@echo "There is no /dev/kvm: the self-test runs in an emulated machine that has one."
	@$(MAKE) --no-print-directory nested
	$(NESTED) run --machine "$$($(NESTED) prepare)" -- $(BIN) run --timeout 5m $(RUNARGS)
endif

nested: ## build bin/nested, which runs programs in a machine with a real kvm-amd
	CGO_ENABLED=0 $(GO) build -trimpath -o $(NESTED) ./tools/nested

test-nested: nested ## Linux guests and the built-in ones on a real kvm-amd, emulated (no root, no /dev/kvm)
	$(NESTED) test $(NESTEDARGS)

test-nested-full: nested ## the whole matrix, hours: guest kernels, host kernels, backends; writes docs/nested-results.md
	$(NESTED) test --full --report docs/nested-results.md $(NESTEDARGS)

# A guest with a root disk of one's own, which keeps what is written to it.
linux: build nested ## a Debian guest's shell with a uringpv disk, here or in the emulated machine (Ctrl-a x leaves)
	@test -f $(GUEST)/root.img || ./$(BIN) image build --out $(GUEST)
	@if ./$(BIN) probe --json | grep -q '"linux_guests": true'; then set -x; \
		./$(BIN) run --kernel $(GUEST)/vmlinuz --initrd $(GUEST)/initramfs.cpio --disk $(GUEST)/root.img --root disk0 $(RUNARGS); \
	else \
		echo "This host's KVM cannot run Linux: the guest runs in an emulated machine (what it writes is lost)."; \
		machine=$$($(NESTED) prepare) && set -x && \
		$(NESTED) run --tty --cpus 1 --timeout 24h --machine "$$machine" --put $(GUEST)/vmlinuz:/guest/vmlinuz \
			--put $(GUEST)/initramfs.cpio:/guest/initramfs.cpio --image $(GUEST)/root.img -- \
			$(BIN) run --kernel /guest/vmlinuz --initrd /guest/initramfs.cpio --disk /images/root.img --root disk0 $(RUNARGS); \
	fi

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
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$dir; \
		done; \
	done

# A failure shows its input, for tools/uringpv/testdata/fuzz/FuzzLinuxCalls.
fuzz-linux: build nested ## run the fuzz target of the Linux driver's calls for FUZZTIME, in the emulated machine
	./$(BIN) image build --no-root --no-fio --out bin/fuzz/guest
	CGO_ENABLED=0 $(GO) test -c -fuzz '^FuzzLinuxCalls$$' -o bin/fuzz/uringpv.test ./tools/uringpv
	cd tools/uringpv && machine=$$(../../$(NESTED) prepare) && URINGPV_TEST_GUESTS=/guests REQUIRE_KVM=1 REQUIRE_IO_URING=1 \
		../../$(NESTED) run --cpus 1 --timeout 24h --machine "$$machine" --put "$$PWD/../../bin/fuzz/guest:/guests/guest" -- \
		../../bin/fuzz/uringpv.test -test.run '^$$' -test.fuzz '^FuzzLinuxCalls$$' -test.fuzztime $(FUZZTIME) \
		-test.fuzzcachedir /tmp/fuzz -test.fuzzminimizetime 1x -test.parallel 1 -test.timeout 0

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

# QEMU comes from the PATH, from the variable QEMU, or, as the nested machine's,
# from Debian's packages.
bench: build ## guest against host and against QEMU, 4 KiB random reads, depths 1, 32 and 128
ifneq ($(QEMU)$(shell command -v qemu-system-x86_64),)
	./$(BIN) bench $(BENCHARGS)
else
	@$(MAKE) --no-print-directory nested
	QEMU="$$($(NESTED) qemu)" ./$(BIN) bench $(BENCHARGS)
endif

bench-go: ## Go benchmarks of the pieces: shared words, translation, rings, the relay per SQE
	$(GO) test -p 1 -run '^$$' -bench '$(GOBENCH)' -benchmem -benchtime $(BENCHTIME) $(GOBENCH_PACKAGES)

# The commits take turns, so that what else the machine does hits both.
bench-compare: ## the same of two commits, OLD and NEW, by benchstat
	@set -e; dir=$$(mktemp -d); \
	trap 'for side in old new; do git worktree remove --force "$$dir/$$side" 2>/dev/null || true; done; rm -rf "$$dir"' EXIT; \
	git worktree add --quiet --detach "$$dir/old" '$(OLD)'; git worktree add --quiet --detach "$$dir/new" '$(NEW)'; \
	for side in old new; do for p in $(GOBENCH_PACKAGES); do \
		(cd "$$dir/$$side" && $(GO) test -c -o "$$dir/$$side-$$(echo $$p | tr -c 'a-z\n' -).test" $$p); done; done; \
	for i in $$(seq $(COUNT)); do for side in old new; do for p in $(GOBENCH_PACKAGES); do \
		echo "pkg: $$p" >> "$$dir/$$side.txt"; \
		(cd "$$dir/$$side/$$p" && "$$dir/$$side-$$(echo $$p | tr -c 'a-z\n' -).test" -test.run '^$$' -test.bench '$(GOBENCH)' \
			-test.benchmem -test.benchtime $(BENCHTIME)) >> "$$dir/$$side.txt"; done; done; done; \
	$(GO) tool benchstat old="$$dir/old.txt" new="$$dir/new.txt"

# Where a host cannot try a case, another one's report may be added by FEATURES.
# For iopoll: that of a run in the nested machine with --disk PATH,direct=on, PATH a file
# of 1 MiB in /disk, which is on NVMe.
features: build ## run the conformance guest and write docs/protocol.md's table of features
	./$(BIN) run --guest conformance --report json > bin/conformance.json
	$(GO) run ./tools/features docs/protocol.md bin/conformance.json $(FEATURES)

generate: ## rebuild the generated files that are committed (needs gcc)
	$(MAKE) -C guest/bare
	$(MAKE) -C device/uringpv/isolated/owner

check-generated: ## do the committed generated files match their source?
	@$(MAKE) --no-print-directory -C guest/bare check
	@$(MAKE) --no-print-directory -C device/uringpv/isolated/owner check

clean: ## remove what make built
	rm -rf bin
