// Command imagetest boots the reference image on two emulated boxes of one home and takes them through their life:
// enrolling, fetching, sharing, reporting, power cuts, an update into the other slot, and a way back from a bad one.
//
// A fleet manager with its origin runs on the bridge that joins them, all in a network namespace of the test's own. The
// power cuts replay qemu's log of every write to the first box's disk: see package blklog. Each part prints what it
// measured; the first part that fails ends the test.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.arch, "arch", "arm64", "of the boxes, as Debian calls it: arm64, or armhf (on an arm64 kernel)")
	flag.StringVar(&o.boxd, "boxd", "", "the box's program for that")
	flag.StringVar(&o.fleetd, "fleetd", "", "the fleet manager for this machine")
	flag.StringVar(&o.media, "media", "", "a film")
	flag.StringVar(&o.image, "image", "build/arm/image", "folder with the image's scripts")
	flag.StringVar(&o.work, "work", "out/image-test", "folder for everything that is made; debs are kept in it")
	flag.IntVar(&o.cuts, "cuts", 200, "power cuts; a quarter as many of the control, which syncs no media")
	flag.IntVar(&o.size, "size", 96, "MiB of the large asset")
	flag.StringVar(&o.only, "only", "", "end after the part of this name")
	flag.StringVar(&o.from, "from", "", "begin with the part of this name, on what an earlier run left; for finding faults")
	flag.IntVar(&o.slow, "slow", 1, "how many times longer everything may take: for a machine that has other work")
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
	arch                             string
	only, from                       string
	cuts, size, slow                 int
	seed                             uint64
}

// test is one run.
type test struct {
	options
	start time.Time
	dir   string
	fleet *fleet
	a, b  *guest
	made
}

// made is what later parts need of the earlier ones; it is kept in a file for -from.
type made struct{ Film, Bulk string } // asset ids

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
	if _, err := exec.LookPath("qemu-system-aarch64"); err != nil {
		return fmt.Errorf("the boxes run in qemu (Debian: qemu-system-arm): %w", err)
	}
	if t.from != "" {
		return nil
	}
	if err := t.script(ctx, nil, "fetch"); err != nil {
		return err
	}
	return t.buildControl(ctx)
}

func (t *test) run(ctx context.Context) error {
	t.start = time.Now()
	t.dir = filepath.Join(t.work, "run")
	parts := []part{
		{"fleet", t.publishFirst},
		{"image", t.buildImages},
		{"first boot", t.firstBoot},
		{"fetch and share", t.fetchAndShare},
		{"watchdog", t.watchdog},
		{"update", t.update},
		{"rollback", t.rollback},
		{"pull the plug", t.pullThePlug},
		{"power cuts", t.powerCuts},
	}
	first := 0
	if t.from != "" {
		if first = slices.IndexFunc(parts, func(p part) bool { return p.name == t.from }); first < 0 {
			return fmt.Errorf("-from %q: there is no such part", t.from)
		}
	}
	if err := t.begin(ctx, first, len(parts)-1); err != nil {
		return err
	}
	for _, part := range parts[first:] {
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

type part struct {
	name string
	do   func(context.Context) error
}

// begin starts the fleet manager, in an empty folder when the test begins with its first part. Later parts find the boxes
// started again from the disks that are there, except the last, which needs none.
func (t *test) begin(ctx context.Context, first, last int) (err error) {
	if first == 0 {
		if err := os.RemoveAll(t.dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return err
	}
	t.guests()
	if first > 0 {
		text, err := os.ReadFile(t.notes())
		if err == nil {
			err = json.Unmarshal(text, &t.made)
		}
		if err != nil {
			return err
		}
	}
	if first == last {
		return nil
	}
	if t.fleet, err = startFleet(ctx, t.fleetd, filepath.Join(t.dir, "fleet")); err != nil || first < 3 {
		return err
	}
	t.a.writeLog, t.b.writeLog = "", ""
	return t.boot(ctx)
}

func (t *test) notes() string { return filepath.Join(t.dir, "made.json") }

func (t *test) publishFirst(ctx context.Context) (err error) {
	if t.Film, err = t.fleet.publish(ctx, "film", t.media, ""); err != nil {
		return err
	}
	bulk := filepath.Join(t.dir, "bulk.bin")
	if err := randomFile(bulk, int64(t.size)<<20); err != nil {
		return err
	}
	if t.Bulk, err = t.fleet.publish(ctx, "bulk", bulk, ""); err != nil {
		return err
	}
	text, err := json.Marshal(t.made)
	if err != nil {
		return err
	}
	return os.WriteFile(t.notes(), text, 0o644)
}

// buildImages makes the disks and, for later, two more roots: a good update, and one whose boxd does not start. The second
// box begins with the control of the power cuts, with the film from the factory and with a credential in place of a token.
func (t *test) buildImages(ctx context.Context) error {
	firmware := filepath.Join(t.dir, "fleet/firmware")
	if err := t.script(ctx, nil, "make", t.boxd, firmware, "v1"); err != nil {
		return err
	}
	control := filepath.Join(t.dir, "control.squashfs")
	if err := t.preseed(filepath.Join(t.dir, "preseeded")); err != nil {
		return err
	}
	without, err := t.withoutToken(firmware)
	if err != nil {
		return err
	}
	if err := t.script(ctx, []string{"EXTRA=" + filepath.Join(t.dir, "preseeded")},
		"mkroot", t.control(), without, control, "v1"); err != nil {
		return err
	}
	if err := t.script(ctx, nil, "mkdisk", control, t.blank("box-b")); err != nil {
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
	if err := os.WriteFile(filepath.Join(extra, "soon.conf"), []byte("[Timer]\nOnBootSec=\nOnBootSec=15\n"), 0o644); err != nil {
		return err
	}
	return t.script(ctx, []string{"EXTRA=" + filepath.Join(t.dir, "extra")}, "mkroot", broken,
		firmware, filepath.Join(t.dir, "broken.squashfs"), "v3")
}

// blank is the disk of a box as the factory makes it.
func (t *test) blank(name string) string {
	if name == "box-a" {
		return filepath.Join(t.work, "disk.img")
	}
	return filepath.Join(t.dir, name+".blank.img")
}

func (t *test) script(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(t.image, name), args...)
	cmd.Env = append(append(os.Environ(), "WORK="+t.work, "ARCH="+t.arch, "SQUASH_LEVEL=3"), env...)
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
