# registry-module: `make help` lists what there is to do.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# How long `make fuzz` runs each fuzz target.
FUZZTIME ?= 30s
# What `make bench` is to measure; empty is everything.
BENCHFLAGS ?=

BINARY := bin/registry-module
# The version comes from above: asking git for it again fails where the tree
# belongs to another user.
GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
# Not in go.mod, which is for what the program is made of.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# All packages but those that need other programs, or minutes.
UNIT = $(shell go list ./... | grep -v '/e2e\(/\|$$\)')

# Debian's packages that tests use, beside make, git and Go.
PACKAGES := ca-certificates chromium conmon containerd crun docker-compose docker.io fonts-dejavu-core gcc iproute2 \
	iptables libc6-dev netavark nginx-light openssl podman prometheus runc skopeo strace systemd wrk

##@ Use

.PHONY: run
run: build ## Show what it does: a sample registry, the module in front of it, cold and warm pulls
	$(BINARY) demo

.PHONY: build
build: ## Build the static binary bin/registry-module for this machine
	$(GO_BUILD) -o $(BINARY) ./cmd/registry-module

.PHONY: cross
cross: ## Build it for each platform that images are made for, into bin/<platform>/
	GOOS=linux GOARCH=amd64 $(GO_BUILD) -o bin/linux-amd64/registry-module ./cmd/registry-module
	GOOS=linux GOARCH=arm64 $(GO_BUILD) -o bin/linux-arm64/registry-module ./cmd/registry-module
	GOOS=linux GOARCH=arm GOARM=7 $(GO_BUILD) -o bin/linux-arm-v7/registry-module ./cmd/registry-module

.PHONY: image
image: ## Build the image registry-module:<version> with the Docker Engine of this machine
	docker build --build-arg VERSION=$(VERSION) --build-arg BUILDPLATFORM=linux/$(shell go env GOHOSTARCH) \
		--tag registry-module:$(VERSION) .

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin

##@ Test

# The unit tests run twice, with the race detector and as a 32-bit program.
.PHONY: test
test: install-deps lint race test-386 e2e ## Everything, with the packages it needs installed first
	@echo "make test: all passed"

.PHONY: unit
unit: ## Unit tests, with the seeds of the fuzz targets
	go test $(UNIT)

.PHONY: race
race: ## Unit tests with the race detector
	go test -race -timeout 20m $(UNIT)

.PHONY: test-386
test-386: ## Unit tests as a 32-bit program, for what runs on arm/v7 too
ifeq ($(shell go env GOHOSTARCH),amd64)
	GOARCH=386 go test $(UNIT)
else
	@echo "test-386: this machine cannot run 386 programs; compiling the tests only, and running those of this machine"
	GOARCH=386 go test -exec true $(UNIT)
	go test $(UNIT)
endif

# Not from the cache of results, which does not know the binary under test.
.PHONY: e2e
e2e: ## Real clients, real engines and the image against the real binary
	go test -count=1 -timeout 20m -p 1 ./e2e/...

# What follows are e2e tests at the full size of what they promise; `make e2e` runs
# the same on less.
CAMPAIGN := go test -count=1 -timeout 90m -v ./e2e -full

.PHONY: chaos
chaos: install-deps ## 100 clients against all faults of an upstream for 5 minutes, with the race detector
	$(CAMPAIGN) -run '^TestChaos$$'

.PHONY: big
big: install-deps ## A blob of 20 GB through a module whose memory does not grow with it
	$(CAMPAIGN) -run '^TestBigBlob$$'

.PHONY: soak
soak: install-deps ## 10 GiB of images through a limit of 1 GiB for 10 minutes, with the race detector
	$(CAMPAIGN) -run '^TestSoak$$'

.PHONY: damage
damage: install-deps ## Each file of a data directory, damaged in each way, one at a time
	$(CAMPAIGN) -run '^TestEachFileDamaged$$'

.PHONY: hierarchy
hierarchy: install-deps ## A top device and lower layers with their API proxies: 3 GiB to slow clients, cuts, restarts, crowds
	$(CAMPAIGN) -run '^TestHierarchy'

.PHONY: campaign
campaign: install-deps ## All that can happen to a download, a disk or a configuration, at full size: cuts, kills, chaos, 20 GB, soak, damage, seeding, 1,000 reloads
	$(CAMPAIGN) -run '^Test(BlackHole|BackFromBlackHole|ManifestStalls|Cuts|Stall|Expiry|Kills|KeptUntilAsked|ResumeAfterStart|Connections|NoRanges|ReadersOfASlowFill|Bandwidth|Prefetch|Chaos|BigBlob|Soak|EachFileDamaged|DiskFull|MoreThanTheDisk|FullFromTheStart|Adopt|SeedKills|SeedRate|BundleFlipped|BundleTruncated|BundleSigned|BundleDelta|BundleWithoutBase|BundleInputs|Hierarchy|Reload)'

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (default 30s)
	for package in $(UNIT); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

.PHONY: bench
bench: install-deps ## Measure it beside the stock registry, zot and nginx, in 25 minutes (BENCHFLAGS are passed on)
	go run ./e2e/bench $(BENCHFLAGS)

.PHONY: performance
performance: install-deps ## The same, and write docs/performance.md
	go run ./e2e/bench -markdown docs/performance.md $(BENCHFLAGS)

.PHONY: million
million: install-deps ## Measure it with a million blobs: takes some minutes and 20 GB of disk
	go run ./e2e/bench -run '^many-blobs$$' -blobs 1000000 $(BENCHFLAGS)

.PHONY: lint
lint: ## Formatting, go vet, staticcheck, and the import rule
	@unformatted=$$(gofmt -l .); if [[ -n "$$unformatted" ]]; then \
		echo "not formatted (run: gofmt -w .):"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	go test ./internal/archtest

##@ Help

.PHONY: install-deps
install-deps: ## Install the Debian packages that tests use, where they are missing
	@missing=(); \
	for package in $(PACKAGES); do \
		[[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" == installed ]] || missing+=($$package); \
	done; \
	if (( $${#missing[@]} == 0 )); then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "please install what gives you these Debian packages: $${missing[*]}"; exit 1; fi; \
	sudo=; (( $$(id -u) == 0 )) || sudo=sudo; \
	$$sudo apt-get update -q; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$${missing[@]}" </dev/null

.PHONY: help
help: ## Show this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
