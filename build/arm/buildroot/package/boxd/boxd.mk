################################################################################
#
# boxd: the static program that `make arm` left in dist/, with its unit and its
# configuration
#
################################################################################

BOXD_VERSION = local
BOXD_SITE = $(BR2_EXTERNAL_BOXD_PATH)/../../..
BOXD_SITE_METHOD = local
BOXD_LICENSE = Apache-2.0
BOXD_LICENSE_FILES = LICENSE

BOXD_DIST = $(if $(BR2_aarch64),arm64,$(if $(BR2_ARM_CPU_ARMV6),armv6,armv7))
BOXD_FLEET = $(call qstrip,$(BR2_PACKAGE_BOXD_FLEET))

# Only what is installed is copied into the build folder.
BOXD_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--include=/dist --include=/dist/boxd-* --include=/systemd --include=/systemd/*** \
	--include=/build --include=/build/arm --include=/build/arm/pkg --include=/build/arm/pkg/*** \
	--include=/LICENSE --exclude=*

define BOXD_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/dist/boxd-$(BOXD_DIST) $(TARGET_DIR)/usr/bin/boxd
	$(INSTALL) -D -m 0640 $(@D)/build/arm/pkg/boxd.toml $(TARGET_DIR)/etc/boxd/boxd.toml
	$(INSTALL) -D -m 0644 $(@D)/systemd/boxd.sysctl.conf $(TARGET_DIR)/usr/lib/sysctl.d/60-boxd.conf
	$(if $(BOXD_FLEET),$(foreach f,boxd.toml ca.pem root.json token,\
		$(INSTALL) -D -m 0640 $(BOXD_FLEET)/$(f) $(TARGET_DIR)/etc/boxd/$(f)$(sep)))
endef

define BOXD_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/systemd/boxd.service $(TARGET_DIR)/usr/lib/systemd/system/boxd.service
	$(INSTALL) -D -m 0644 $(@D)/systemd/boxd.tmpfiles.conf $(TARGET_DIR)/usr/lib/tmpfiles.d/boxd.conf
endef

define BOXD_USERS
	boxd -1 boxd -1 * /var/lib/boxd - - Media prefetch
	- -1 boxd-admin -1 - - - - May change things through the socket
endef

define BOXD_PERMISSIONS
	/etc/boxd d 0755 root root - - - - -
	/etc/boxd/boxd.toml f 0640 root boxd - - - - -
	/etc/boxd/ca.pem F 0640 root boxd - - - - -
	/etc/boxd/root.json F 0640 root boxd - - - - -
	/etc/boxd/token F 0640 root boxd - - - - -
endef

$(eval $(generic-package))
