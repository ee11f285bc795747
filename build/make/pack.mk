# Packages for firmware: .deb and .ipk, with a list of what is linked (CycloneDX) and the licences.
# The tools that this takes are a Go module of their own.

.PHONY: deb
deb: build arm-armv7 arm-arm64 ## .deb and .ipk for armhf and arm64, with SBOM and licences, in dist/
	@rm -rf $(DIST)/*.deb $(DIST)/*.ipk $(DIST)/share && mkdir -p $(DIST)/share
	@bin/boxd man $(DIST)/share/man
	@for s in bash zsh fish; do bin/boxd completion $$s >$(DIST)/share/boxd.$$s; done
	@cd build/tools && GOFLAGS= $(GO) test ./... && GOFLAGS= $(GO) build -o ../../bin/tools/pack ./pack
	@for a in armhf:armv7 arm64:arm64; do b=$(DIST)/boxd-$${a#*:}; \
		$(GO) run ./build/licences $$b >$(DIST)/share/modules.json && \
		bin/tools/pack -binary $$b -modules $(DIST)/share/modules.json -share $(DIST)/share -arch $${a%:*} \
			-version $(VERSION) -out $(DIST) || exit 1; done
	@build/ci/check-packages $(DIST)
	@build/ci/check-layers
