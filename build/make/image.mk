# A bootable reference image: kernel, read-only root in two slots, a data partition; and the test that boots it.

IMAGE_WORK := out/image
IMAGE_ARCH ?= arm64
image_boxd_arm64 := arm64
image_boxd_armhf := armv7
# Folder with what `fleetd serve` writes for boxes: boxd.toml, ca.pem, root.json, token.
FLEET ?=
# More for the test, such as IMAGE_TEST='-only "fetch and share"'.
IMAGE_TEST ?=

.PHONY: image
image: arm-$(image_boxd_$(IMAGE_ARCH)) ## bootable ARM image, needs root; FLEET=folder with boxd.toml, ca.pem, root.json, token
	@ARCH=$(IMAGE_ARCH) WORK=$(CURDIR)/$(IMAGE_WORK) build/arm/image/make \
		$(DIST)/boxd-$(image_boxd_$(IMAGE_ARCH)) "$(FLEET)" $(VERSION)

.PHONY: image-test
image-test: build arm-$(image_boxd_$(IMAGE_ARCH)) ## boot two boxes in qemu: enrol, fetch, share, power cuts, update, rollback; SHORT=1 for 20 cuts
	@$(GO) build -trimpath -o bin/tools/imagetest ./build/arm/imagetest
	@bin/tools/imagetest -arch $(IMAGE_ARCH) -boxd $(DIST)/boxd-$(image_boxd_$(IMAGE_ARCH)) -fleetd bin/fleetd \
		-media media/demo.webm $(if $(SHORT),-cuts 20 -size 48,-cuts 200) $(IMAGE_TEST)
