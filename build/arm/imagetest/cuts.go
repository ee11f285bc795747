package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"boxd/build/arm/imagetest/blklog"
	"boxd/internal/cache"
	"boxd/internal/health"
	"boxd/internal/state"
)

// verdict is what was found after one power cut.
type verdict struct {
	assets, pieces int      // that the index claims, each read back and hashed
	wrong          int      // of these, those that the disk does not hold
	torn           bool     // the last write was the end of a transaction of ext4's journal, and only in part there
	faults         []string // what must not be; empty is good
}

// cutReport sums up many.
type cutReport struct {
	cuts, bad     int
	torn          int // journals that fsck took back to the transaction before
	pieces, wrong int // claimed, and those of them that are not there
	examples      []string
	took          time.Duration
}

// cutPower replays the log of a box's disk to so many random points and looks at what is on the data partition each time.
func (t *test) cutPower(ctx context.Context, box *guest, cuts int) (cutReport, error) {
	report, start, dir := cutReport{}, time.Now(), t.dir
	before, log := t.blank(box.name), filepath.Join(dir, box.name+".writes")
	from, length, err := dataPartition(before)
	if err != nil {
		return report, err
	}
	f, err := os.Open(log)
	if err != nil {
		return report, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return report, err
	}
	entries, err := blklog.Read(f, info.Size())
	if err != nil {
		return report, fmt.Errorf("%s: %w", log, err)
	}
	rng := rand.New(rand.NewPCG(t.seed, 7))
	points := cutPoints(entries, from, cuts, rng)
	certain, scratch := filepath.Join(dir, "certain.img"), filepath.Join(dir, "cut.img")
	if err := extract(before, certain, from, length); err != nil {
		return report, err
	}
	image, err := os.OpenFile(certain, os.O_RDWR, 0)
	if err != nil {
		return report, err
	}
	defer image.Close()
	replay := blklog.New(f, entries, from, length)
	for _, at := range points {
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		first, err := replay.Advance(image, at)
		if err != nil {
			return report, err
		}
		if out, err := exec.Command("cp", "--sparse=always", certain, scratch).CombinedOutput(); err != nil {
			return report, fmt.Errorf("cp: %w: %s", err, out)
		}
		cut, err := os.OpenFile(scratch, os.O_RDWR, 0)
		if err != nil {
			return report, err
		}
		err = errors.Join(replay.Scatter(cut, first, at, rng), cut.Close())
		if err != nil {
			return report, err
		}
		v := inspect(ctx, dir, scratch)
		report.cuts++
		report.pieces += v.pieces
		report.wrong += v.wrong
		if v.torn {
			report.torn++
		}
		if len(v.faults) > 0 {
			report.bad++
			report.examples = append(report.examples,
				fmt.Sprintf("cut at write %d of %d: %s", at, len(entries), strings.Join(v.faults, "; ")))
		}
	}
	report.took = time.Since(start)
	return report, nil
}

// cutPoints chooses, in rising order, entries after the data partition was first written.
func cutPoints(entries []blklog.Entry, from int64, cuts int, rng *rand.Rand) []int {
	begin := slices.IndexFunc(entries, func(e blklog.Entry) bool { return e.Length > 0 && e.Offset >= from })
	begin = max(begin, 0)
	points := make([]int, cuts)
	for i := range points {
		points[i] = begin + 1 + rng.IntN(max(len(entries)-begin-1, 1))
	}
	slices.Sort(points)
	return points
}

// dataPartition finds the partition by its name.
func dataPartition(disk string) (from, length int64, err error) {
	out, err := exec.Command("sfdisk", "--dump", disk).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("sfdisk %s: %w", disk, err)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, `name="data"`) {
			continue
		}
		_, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(strings.Join(strings.Fields(rest), ""), "start=%d,size=%d,", &from, &length); err != nil {
			return 0, 0, fmt.Errorf("%q: %w", line, err)
		}
		return from * 512, length * 512, nil
	}
	return 0, 0, fmt.Errorf("%s has no data partition", disk)
}

func extract(disk, out string, from, length int64) error {
	const mib = 1 << 20
	cmd := exec.Command("dd", "if="+disk, "of="+out, "bs=1M", fmt.Sprintf("skip=%d", from/mib),
		fmt.Sprintf("count=%d", length/mib), "conv=sparse", "status=none")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("dd: %w: %s", err, text)
	}
	return os.Truncate(out, length)
}

// inspect mounts a data partition as the next boot would and opens what boxd left there: nothing that its index claims
// may be missing or wrong, and nothing may have had to be rebuilt.
func inspect(ctx context.Context, dir, image string) (v verdict) {
	mnt := filepath.Join(dir, "mnt")
	fault := func(format string, args ...any) { v.faults = append(v.faults, fmt.Sprintf(format, args...)) }
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		fault("%v", err)
		return v
	}
	// As systemd-fsck does before each mount: what it cannot mend without a question is a fault.
	out, err := exec.Command("fsck.ext4", "-a", image).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
		fault("fsck: %v: %.600s", err, out)
		return v
	}
	v.torn = strings.Contains(string(out), "replay was aborted")
	if strings.Contains(string(out), "check forced") && !v.torn {
		fault("the file system had to be repaired: %.600s", out)
	}
	if out, err := exec.Command("mount", "-o", "loop,noatime", image, mnt).CombinedOutput(); err != nil {
		fault("mount: %v: %s", err, out)
		return v
	}
	defer func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			fault("umount: %v: %s", err, out)
		}
	}()
	lib, media := filepath.Join(mnt, "lib/boxd"), filepath.Join(mnt, "cache/boxd")
	if _, err := os.Stat(filepath.Join(lib, "state.db")); errors.Is(err, fs.ErrNotExist) {
		return v // cut before boxd's first start
	}
	warnings := health.New(nil)
	db, err := state.Open(filepath.Join(lib, "state.db"), state.Options{Health: warnings})
	if err != nil {
		fault("state: %v", err)
		return v
	}
	defer db.Close()
	claims(ctx, &v, lib, media, db, warnings)
	for _, code := range []string{state.CodeLost, state.CodeRestored, cache.CodeRebuilt, cache.CodeIndex} {
		if warnings.Has(code) {
			fault("raised %s", code)
		}
	}
	return v
}

func claims(ctx context.Context, v *verdict, lib, media string, db *state.DB, warnings *health.Set) {
	if _, err := os.Stat(filepath.Join(lib, "index.db")); errors.Is(err, fs.ErrNotExist) {
		return
	}
	c, err := cache.Open(cache.Options{Dir: media, StateDir: lib, State: db, Health: warnings, ScrubPeriod: -1})
	if err != nil {
		v.faults = append(v.faults, fmt.Sprintf("cache: %v", err))
		return
	}
	defer c.Close()
	for _, s := range c.Assets() {
		r, err := c.Verify(ctx, s.ID)
		v.assets++
		v.pieces += r.Pieces
		if err != nil {
			v.faults = append(v.faults, fmt.Sprintf("verify %s: %v", s.ID.Short(), err))
		}
		v.wrong += len(r.Bad)
		if len(r.Bad) > 0 {
			v.faults = append(v.faults,
				fmt.Sprintf("%s: %d of %d pieces that the index claims are wrong", s.ID.Short(), len(r.Bad), r.Pieces))
		}
	}
}

func (r cutReport) print(w io.Writer, what string) {
	fmt.Fprintf(w, "%s: %d cuts, %d bad; %d claimed pieces read back, %d wrong; %d torn journals, mended by fsck (%.0f s)\n",
		what, r.cuts, r.bad, r.pieces, r.wrong, r.torn, r.took.Seconds())
	for i, e := range r.examples {
		if i < 5 {
			fmt.Fprintln(w, "   ", e)
		}
	}
}
