// Command pack makes what an integrator takes of the box: .deb and .ipk packages, a CycloneDX list of what is linked
// into the binary, and the licence texts of all that, as build/licences lists them.
//
// It lives in a module of its own, so that none of what it needs becomes a dependency of the box.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	top := flag.String("top", ".", "root of the source tree")
	binary := flag.String("binary", "", "the program to pack")
	modules := flag.String("modules", "", "what build/licences says of the program")
	arch := flag.String("arch", "", "armhf or arm64")
	version := flag.String("version", "0.0.0", "version, as git describe says it")
	share := flag.String("share", "", "folder with man/*.[18] and boxd.{bash,zsh,fish}")
	out := flag.String("out", "dist", "folder for the results")
	flag.Parse()
	if err := run(*top, *binary, *modules, *share, *arch, *version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(top, binary, list, share, arch, version, out string) error {
	if arch != "armhf" && arch != "arm64" {
		return fmt.Errorf("architecture %q: want armhf or arm64", arch)
	}
	modules, err := linked(list)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	base := filepath.Join(out, "boxd-"+arch)
	if err := writeSBOM(base+".cdx.json", binary, version, modules); err != nil {
		return err
	}
	if err := writeLicences(base+".licenses.txt", top, modules); err != nil {
		return err
	}
	for _, kind := range []string{"deb", "ipk"} {
		if err := writePackage(kind, top, binary, base, share, arch, version, out); err != nil {
			return fmt.Errorf("%s for %s: %w", kind, arch, err)
		}
	}
	return nil
}
