// Command imagetest boots the reference image on two emulated boxes of one home and takes them through their life:
// enrolling, fetching, sharing, reporting, power cuts, an update into the other slot, and a way back from a bad one.
//
// A fleet manager with its origin runs on the bridge that joins them, all in a network namespace of the test's own. The
// power cuts replay qemu's log of every write to the first box's disk: see package blklog. Each part prints what it
// measured; the first part that fails ends the test.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.boxd, "boxd", "", "the box's program for arm64")
	flag.StringVar(&o.fleetd, "fleetd", "", "the fleet manager for this machine")
	flag.StringVar(&o.media, "media", "", "a film")
	flag.StringVar(&o.image, "image", "build/arm/image", "folder with the image's scripts")
	flag.StringVar(&o.work, "work", "out/image-test", "folder for everything that is made; debs are kept in it")
	flag.IntVar(&o.cuts, "cuts", 200, "power cuts; a quarter as many on a lying disk, as the control")
	flag.IntVar(&o.size, "size", 96, "MiB of the large asset")
	flag.StringVar(&o.only, "only", "", "end after the part of this name")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the cuts")
	flag.Parse()
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "image-test needs root: network namespaces, mounts and file owners")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	t := &test{options: o}
	err := t.prepare(ctx)
	if err == nil {
		err = enterNamespace()
	}
	if err == nil {
		err = t.run(ctx)
	}
	stop()
	t.close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image-test FAILED:", err)
		os.Exit(1)
	}
	fmt.Printf("image-test passed in %.0f s\n", time.Since(t.start).Seconds())
}

type options struct {
	boxd, fleetd, media, image, work string
	only                             string
	cuts, size                       int
	seed                             uint64
}

// test is one run.
type test struct {
	options
	start time.Time
	dir   string
	fleet *fleet
	a, b  *guest
	film  string // asset ids
	bulk  string
}

func (t *test) close() {
	for _, g := range []*guest{t.a, t.b} {
		if g != nil && g.shell != nil {
			g.pullThePlug()
		}
	}
	if t.fleet != nil {
		t.fleet.stop()
	}
}

// prepare downloads, which the namespace cannot.
func (t *test) prepare(ctx context.Context) error {
	for _, p := range []*string{&t.boxd, &t.fleetd, &t.media, &t.image, &t.work} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if os.Getenv(insideEnv) != "" {
		return nil
	}
	return t.script(ctx, nil, "fetch")
}

func (t *test) run(ctx context.Context) error {
	t.start = time.Now()
	t.dir = filepath.Join(t.work, "run")
	if err := os.RemoveAll(t.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"fleet", t.startFleet},
		{"image", t.buildImages},
		{"first boot", t.firstBoot},
		{"fetch and share", t.fetchAndShare},
		{"update", t.update},
		{"rollback", t.rollback},
		{"pull the plug", t.pullThePlug},
		{"power cuts", t.powerCuts},
	} {
		begin := time.Now()
		fmt.Printf("\n== %s\n", part.name)
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Printf("== %s: %.0f s\n", part.name, time.Since(begin).Seconds())
		if part.name == t.only {
			return nil
		}
	}
	return nil
}

func (t *test) startFleet(ctx context.Context) (err error) {
	if t.fleet, err = startFleet(ctx, t.fleetd, filepath.Join(t.dir, "fleet")); err != nil {
		return err
	}
	if t.film, err = t.fleet.publish(ctx, "film", t.media, ""); err != nil {
		return err
	}
	bulk := filepath.Join(t.dir, "bulk.bin")
	if err := randomFile(bulk, int64(t.size)<<20); err != nil {
		return err
	}
	t.bulk, err = t.fleet.publish(ctx, "bulk", bulk, "")
	return err
}

// buildImages makes the disk and, for later, two more roots: a good update, and one whose boxd does not start.
func (t *test) buildImages(ctx context.Context) error {
	firmware := filepath.Join(t.dir, "fleet/firmware")
	if err := t.script(ctx, nil, "make", t.boxd, firmware, "v1"); err != nil {
		return err
	}
	if err := t.script(ctx, nil, "mkroot", t.boxd, firmware, filepath.Join(t.dir, "good.squashfs"), "v2"); err != nil {
		return err
	}
	broken := filepath.Join(t.dir, "broken-boxd")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho this build does not start >&2\nexit 1\n"), 0o755); err != nil {
		return err
	}
	// The deadline is shortened, so that the test does not wait for three times three minutes.
	extra := filepath.Join(t.dir, "extra/etc/systemd/system/boxd-boot-deadline.timer.d")
	if err := os.MkdirAll(extra, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(extra, "soon.conf"), []byte("[Timer]\nOnBootSec=\nOnBootSec=40\n"), 0o644); err != nil {
		return err
	}
	return t.script(ctx, []string{"EXTRA=" + filepath.Join(t.dir, "extra")}, "mkroot", broken,
		firmware, filepath.Join(t.dir, "broken.squashfs"), "v3")
}

func (t *test) script(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(t.image, name), args...)
	cmd.Env = append(append(os.Environ(), "WORK="+t.work), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func randomFile(name string, size int64) error {
	cmd := exec.Command("dd", "if=/dev/urandom", "of="+name, "bs=1M", fmt.Sprintf("count=%d", size>>20), "status=none")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("dd: %w: %s", err, out)
	}
	return nil
}

func copySparse(from, to string) error {
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return nil
}
