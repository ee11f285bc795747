SUMMARY = "Prefetches scheduled media, shares it within the home, plays it out"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/files/common-licenses/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# The static program is built outside of bitbake by `make arm`, which is reproducible. Point BOXD_SRC at the tree where
# that was done, and BOXD_FLEET at the folder with boxd.toml, ca.pem, root.json and token of the fleet.
BOXD_SRC ?= "${THISDIR}/../../../../../.."
BOXD_FLEET ?= ""
PV = "local"
S = "${WORKDIR}"

BOXD_ARCH:aarch64 = "arm64"
BOXD_ARCH:armv7a = "armv7"
BOXD_ARCH:armv7ve = "armv7"
BOXD_ARCH:armv6 = "armv6"
COMPATIBLE_HOST = "(arm|aarch64).*-linux.*"

inherit systemd useradd features_check
REQUIRED_DISTRO_FEATURES = "systemd"

SYSTEMD_SERVICE:${PN} = "boxd.service"
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system boxd; --system boxd-admin"
USERADD_PARAM:${PN} = "--system --no-create-home --home-dir ${localstatedir}/lib/boxd --shell /sbin/nologin -g boxd boxd"

do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_install[file-checksums] += "${BOXD_SRC}/dist/boxd-${BOXD_ARCH}:True"

do_install() {
    install -D -m 0755 ${BOXD_SRC}/dist/boxd-${BOXD_ARCH} ${D}${bindir}/boxd
    install -D -m 0644 ${BOXD_SRC}/systemd/boxd.service ${D}${systemd_system_unitdir}/boxd.service
    install -D -m 0644 ${BOXD_SRC}/systemd/boxd.tmpfiles.conf ${D}${nonarch_libdir}/tmpfiles.d/boxd.conf
    install -D -m 0644 ${BOXD_SRC}/systemd/boxd.sysctl.conf ${D}${nonarch_libdir}/sysctl.d/60-boxd.conf
    install -d -m 0755 ${D}${sysconfdir}/boxd
    install -m 0640 -g boxd ${BOXD_SRC}/build/arm/pkg/boxd.toml ${D}${sysconfdir}/boxd/boxd.toml
    for file in boxd.toml ca.pem root.json token; do
        if [ -n "${BOXD_FLEET}" ] && [ -e "${BOXD_FLEET}/$file" ]; then
            install -m 0640 -g boxd "${BOXD_FLEET}/$file" ${D}${sysconfdir}/boxd/$file
        fi
    done
}

FILES:${PN} += "${systemd_system_unitdir} ${nonarch_libdir}/tmpfiles.d ${nonarch_libdir}/sysctl.d"
CONFFILES:${PN} = "${sysconfdir}/boxd/boxd.toml"
# Go links and strips it itself; it has no dynamic section and no debug information.
INSANE_SKIP:${PN} += "already-stripped ldflags"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
