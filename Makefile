# boxd: everything that is built, tested and shipped. `make help` lists the targets.
# Other parts add targets and test stages in build/make/*.mk (see CONTRIBUTING.md).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

GO ?= go
TAGS := noboltdb,nosqlite
export GOFLAGS := $(strip $(filter-out -tags=%,$(GOFLAGS)) -tags=$(TAGS))
export CGO_ENABLED ?= 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
LDFLAGS := -s -w -buildid= -X main.version=$(VERSION) -X main.buildEpoch=$(SOURCE_DATE_EPOCH)
GOBUILD = $(GO) build -trimpath -buildvcs=false -ldflags="$(LDFLAGS)"
GOTEST = $(GO) run ./build/gotest

# Packages that are linked into the box, and nothing else: the depth checks are for them.
BOX_PKGS = $(shell $(GO) list -deps ./cmd/boxd 2>/dev/null | grep '^boxd/')

# What `make test` needs beside Go, as command:debian-package; fragments add to it.
NEEDS := git:git gcc:gcc curl:curl mosquitto:mosquitto chromium:chromium nft:nftables ip:iproute2 \
	avahi-browse:avahi-utils qemu-arm-static:qemu-user-static openssl:openssl ffprobe:ffmpeg \
	systemd-analyze:systemd mksquashfs:squashfs-tools mkfs.ext4:e2fsprogs \
	dpkg=python3-libtorrent:python3-libtorrent dpkg=postgresql:postgresql
# Stages of `make test` that fragments add, run in order after the built-in ones.
TEST_STAGES :=
# Packages whose tests need the whole machine: `make test` runs each alone, after the unit stage.
E2E_PKGS := ./internal/demo
E2E_TIMEOUT_internal_demo := 600

include $(sort $(wildcard build/make/*.mk))

.PHONY: help
help: ## this list
	@grep -hE '^[a-zA-Z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sort -u | \
		awk -F ':.*## ' '{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}'

.PHONY: build
build: ## build bin/boxd and bin/fleetd for this machine
	@mkdir -p bin
	$(GOBUILD) -o bin/ ./cmd/boxd ./cmd/fleetd

.PHONY: demo
demo: build ## three boxes and a fleet manager on this machine; MEDIA=path/to/film, DEMO=once to exit with the result
	@$(GO) run ./cmd/demo -bin bin -media "$(or $(MEDIA),media/demo.webm)" $(if $(filter once,$(DEMO)),-once)

## ---- tests

.PHONY: test
test: ## everything that belongs on every change; as root it installs what it needs first
	@build/ci/stages needs:900 build:1500 unit:1500 $(foreach p,$(E2E_PKGS),$(call e2e_stage,$(p))) \
		race:1500 arm:900 test-arm-short:1200 $(foreach s,$(TEST_STAGES),$(s):$(or $(STAGE_TIMEOUT_$(s)),300)) vuln:300

.PHONY: test-quick
test-quick: ## the tests that need nothing but Go
	@$(GOTEST) -timeout 300s -allow-skips -- -short ./...

e2e_name = $(subst /,_,$(patsubst ./%,%,$(patsubst %/...,%,$(1))))
e2e_limit = $(or $(E2E_TIMEOUT_$(1)),300)
e2e_stage = e2e_$(call e2e_name,$(1)):$(shell echo $$(($(call e2e_limit,$(call e2e_name,$(1))) + 240)))

stage-needs:
	@build/ci/needs $(NEEDS)
stage-build:
	@$(GO) build ./... && $(GO) vet ./... && $(MAKE) build
# Not among the stages of `make test`: building the linter takes 85 s of a quiet machine and running it as long again. What
# it says about imports, calls and packages is also said by repo_test.go and arrows_test.go, which are.
stage-lint:
	@$(MAKE) lint
stage-unit:
	@$(GOTEST) -timeout 600s -- $$($(GO) list ./... | grep -vxFf <($(if $(E2E_PKGS),$(GO) list $(E2E_PKGS),echo)))
stage-race:
	@CGO_ENABLED=1 $(GOTEST) -timeout 600s -allow-skips -- -race -short $(BOX_PKGS)
stage-arm:
	@$(MAKE) arm-armv7 arm-arm64 size deps
stage-test-arm-short:
	@$(MAKE) test-arm SHORT=1
stage-vuln:
	@$(MAKE) vuln
stage-e2e_%:
	@$(GOTEST) -timeout $(call e2e_limit,$*)s -- -count=1 -p 1 \
		$(or $(strip $(foreach p,$(E2E_PKGS),$(if $(filter $*,$(call e2e_name,$(p))),$(p)))),$(error no package for $*))

## ---- style

GOLANGCI_VERSION := v2.15.0
GOLANGCI := bin/tools/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK_VERSION := v1.9.0
GOVULNCHECK := bin/tools/govulncheck-$(GOVULNCHECK_VERSION)

$(GOLANGCI):
	@mkdir -p bin/tools && echo "building golangci-lint $(GOLANGCI_VERSION): a minute or two, once"
	@GOFLAGS= GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv bin/tools/golangci-lint $@

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, with the import arrows and gofumpt
	@GOFLAGS= $(GOLANGCI) run --allow-parallel-runners --build-tags $(TAGS) ./...

.PHONY: fmt
fmt: $(GOLANGCI) ## format with gofumpt
	@GOFLAGS= $(GOLANGCI) fmt ./...

$(GOVULNCHECK):
	@mkdir -p bin/tools
	@GOFLAGS= GOBIN=$(CURDIR)/bin/tools $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@mv bin/tools/govulncheck $@

.PHONY: vuln
vuln: $(GOVULNCHECK) ## known vulnerabilities that the code reaches; says so when the database cannot be reached
	@build/ci/vuln $(GOVULNCHECK) ./cmd/boxd ./cmd/fleetd
