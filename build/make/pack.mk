# Packages for firmware: .deb and .ipk, with a list of what is linked (CycloneDX) and the licences.
# The tools that this takes are a Go module of their own.

.PHONY: deb
deb: build arm-armv7 arm-arm64 ## .deb and .ipk for armhf and arm64, with SBOM and licences, in dist/
	@rm -rf $(DIST)/*.deb $(DIST)/*.ipk $(DIST)/share && mkdir -p $(DIST)/share
	@bin/boxd man $(DIST)/share/man
	@for s in bash zsh fish; do bin/boxd completion $$s >$(DIST)/share/boxd.$$s; done
	@cd build/tools && GOFLAGS= $(GO) test ./... && GOFLAGS= $(GO) build -o ../../bin/tools/pack ./pack
	@bin/tools/pack -binary $(DIST)/boxd-armv7 -share $(DIST)/share -arch armhf -version $(VERSION) -out $(DIST)
	@bin/tools/pack -binary $(DIST)/boxd-arm64 -share $(DIST)/share -arch arm64 -version $(VERSION) -out $(DIST)
	@build/ci/check-packages $(DIST)
	@build/ci/check-layers
