# The box's binary for the machines it runs on, what it costs, and its tests there.

DIST := dist
ARM_ARCHES := armv7 arm64 armv6
goarch_armv7 := GOARCH=arm GOARM=7
goarch_armv6 := GOARCH=arm GOARM=6
goarch_arm64 := GOARCH=arm64
# The emulated CPU is pinned, so that an instruction that the target lacks kills the test.
qemu_armv7 := qemu-arm-static -cpu cortex-a7
qemu_armv6 := qemu-arm-static -cpu arm1176
qemu_arm64 := qemu-aarch64-static -cpu cortex-a53

.PHONY: arm
arm: $(ARM_ARCHES:%=arm-%) ## cross-build the static, stripped, reproducible boxd for armv7, arm64 and armv6

arm-%:
	@mkdir -p $(DIST)
	@CGO_ENABLED=0 GOOS=linux $(goarch_$*) $(GOBUILD) -o $(DIST)/boxd-$* ./cmd/boxd
	@printf '%-22s %10d bytes  sha256 %s\n' $(DIST)/boxd-$* $$(stat -c %s $(DIST)/boxd-$*) $$(sha256sum $(DIST)/boxd-$* | cut -c1-16)

.PHONY: arm-repro
arm-repro: arm ## build again from a copy of the tree in another place and compare the hashes
	@build/ci/reproducible $(DIST) $(ARM_ARCHES)

.PHONY: size
size: arm-armv7 ## what each dependency costs in the armv7 binary; fails over the budget
	@$(GO) run ./build/size -budgets build/budgets.txt -binary $(DIST)/boxd-armv7

.PHONY: deps
deps: ## fail when the box binary depends on a package that build/deps-boxd.txt does not list
	@build/ci/deps check

.PHONY: deps-update
deps-update: ## write build/deps-boxd.txt anew (a reviewer asks why it grew)
	@build/ci/deps update

.PHONY: test-arm
test-arm: ## the box side's unit tests as armv7 and arm64 programs under qemu-user; SHORT=1 for the short form
	@$(MAKE) test-arm-on-armv7 test-arm-on-arm64

# A test binary under emulation is some ten times slower. The short form takes the packages where 32 bits, alignment or
# the system calls of another architecture can matter.
arm_short_armv7 = asset cache durable ops state
arm_short_arm64 = asset cache durable state
test-arm-on-%:
	@echo "$* under $(qemu_$*)"
	@mkdir -p bin/tools && $(GO) build -o bin/tools/gotest ./build/gotest
	@CGO_ENABLED=0 GOOS=linux $(goarch_$*) bin/tools/gotest -timeout $(if $(SHORT),240s,1200s) -allow-skips -- \
		-short -p 2 -exec "$(qemu_$*)" \
		$(if $(SHORT),$(filter $(addprefix boxd/internal/,$(arm_short_$*)),$(BOX_PKGS)),$(BOX_PKGS))
