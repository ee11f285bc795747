package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the packager
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/ipk" // registers the packager
)

// describe takes apart what git describe says: v1.2.3-4-gabc-dirty.
var describe = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-(\d+)-g([0-9a-f]+))?(-dirty)?$`)

// packageVersion orders as time does: a commit after a tag is newer than the tag, and all are newer than no tag at all.
func packageVersion(v string) string {
	if m := describe.FindStringSubmatch(v); m != nil {
		v = m[1]
		if m[2] != "" {
			v += "+" + m[2] + ".g" + m[3]
		}
		if m[4] != "" {
			v += "+dirty"
		}
		return v
	}
	return fmt.Sprintf("0.0.0+%d.%s", sourceTime().Unix(), strings.ReplaceAll(v, "-", "."))
}

func writePackage(kind, top, binary, base, share, arch, version, out string) error {
	at := func(name string) string { return filepath.Join(top, filepath.FromSlash(name)) }
	contents := files.Contents{
		file(binary, "/usr/bin/boxd", 0o755),
		config(at("build/arm/pkg/boxd.toml"), "/etc/boxd/boxd.toml"),
		file(base+".cdx.json", "/usr/share/doc/boxd/sbom.cdx.json", 0o644),
		file(base+".licenses.txt", "/usr/share/doc/boxd/copyright", 0o644),
	}
	for _, doc := range []string{"docs/operating.md", "docs/config.md"} {
		if _, err := os.Stat(at(doc)); err == nil {
			contents = append(contents, file(at(doc), "/usr/share/doc/boxd/"+filepath.Base(doc), 0o644))
		}
	}
	scripts := nfpm.Scripts{
		PostInstall: at("build/arm/pkg/postinst"), PreRemove: at("build/arm/pkg/prerm"), PostRemove: at("build/arm/pkg/postrm"),
	}
	if kind == "deb" {
		help, err := shared(share)
		if err != nil {
			return err
		}
		contents = append(contents, help...)
		contents = append(contents,
			file(at("systemd/boxd.service"), "/usr/lib/systemd/system/boxd.service", 0o644),
			file(at("systemd/boxd.sysusers.conf"), "/usr/lib/sysusers.d/boxd.conf", 0o644),
			file(at("systemd/boxd.tmpfiles.conf"), "/usr/lib/tmpfiles.d/boxd.conf", 0o644),
			file(at("systemd/boxd.sysctl.conf"), "/usr/lib/sysctl.d/60-boxd.conf", 0o644),
			file(at("systemd/preseed.conf"), "/usr/lib/boxd/preseed.conf", 0o644),
			file(at("systemd/boxd.service.d/50-preseed.conf"),
				"/usr/share/doc/boxd/examples/boxd.service.d/50-preseed.conf", 0o644))
	} else {
		contents = append(contents, file(at("build/arm/openwrt/boxd.init"), "/etc/init.d/boxd", 0o755),
			file(at("systemd/boxd.sysctl.conf"), "/etc/sysctl.d/60-boxd.conf", 0o644))
		scripts = nfpm.Scripts{PostInstall: at("build/arm/openwrt/postinst")}
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "boxd", Arch: map[string]string{"armhf": "arm7", "arm64": "arm64"}[arch], Platform: "linux",
		Version: packageVersion(version), VersionSchema: "none", Section: "video", Priority: "optional",
		Maintainer: "The boxd authors <boxd@localhost>", License: "Apache-2.0", MTime: sourceTime(),
		Description: "Prefetches scheduled media, shares it within the home, plays it out\n" +
			"One static program for set-top boxes; it needs nothing but a writable\n" +
			"folder and a network.",
		Overridables: nfpm.Overridables{Contents: contents, Scripts: scripts},
	})
	if err := nfpm.PrepareForPackager(info, kind); err != nil {
		return err
	}
	packager, err := nfpm.Get(kind)
	if err != nil {
		return err
	}
	name := filepath.Join(out, packager.ConventionalFileName(info))
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := packager.Package(info, f); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	fmt.Println(name)
	return nil
}

// shared finds the manual pages and the completions, which the program itself wrote for this. Manual pages are compressed
// where they are.
func shared(dir string) (files.Contents, error) {
	pages, err := filepath.Glob(filepath.Join(dir, "man", "*.[18]"))
	if err != nil || len(pages) == 0 {
		return nil, fmt.Errorf("no manual pages in %s: %w", dir, err)
	}
	var list files.Contents
	for _, page := range pages {
		zipped := page + ".gz"
		if err := compress(page, zipped); err != nil {
			return nil, err
		}
		list = append(list, file(zipped, "/usr/share/man/man"+filepath.Ext(page)[1:]+"/"+filepath.Base(zipped), 0o644))
	}
	for name, dst := range map[string]string{
		"boxd.bash": "/usr/share/bash-completion/completions/boxd",
		"boxd.zsh":  "/usr/share/zsh/vendor-completions/_boxd",
		"boxd.fish": "/usr/share/fish/vendor_completions.d/boxd.fish",
	} {
		list = append(list, file(filepath.Join(dir, name), dst, 0o644))
	}
	return list, nil
}

// compress writes no name and no time, so that the result is the same every time.
func compress(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

func file(src, dst string, mode os.FileMode) *files.Content {
	return &files.Content{Source: src, Destination: dst, FileInfo: &files.ContentFileInfo{Mode: mode, MTime: sourceTime()}}
}

// config is kept when a person changed it. It holds no secret, and the daemon's user must be able to read it.
func config(src, dst string) *files.Content {
	c := file(src, dst, 0o644)
	c.Type = files.TypeConfigNoReplace
	return c
}
