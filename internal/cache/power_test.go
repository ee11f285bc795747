package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// The tests in this file kill a process that works on real files. It is this test binary again, told by the environment.
const (
	workerEnv = "BOXD_CACHE_WORKER" // the directory to work in
	noSyncEnv = "BOXD_CACHE_NO_SYNC"
	// A benchmark's server, in a build that has it.
	benchServeEnv = "BOXD_CACHE_BENCH"

	powerGroup = 6 * testPiece
	powerQuota = 90 * testPiece
)

var benchServe func(dir string) int

func TestMain(m *testing.M) {
	if dir := os.Getenv(workerEnv); dir != "" {
		os.Exit(work(dir, os.Getenv(noSyncEnv) != ""))
	}
	if dir := os.Getenv(benchServeEnv); dir != "" && benchServe != nil {
		os.Exit(benchServe(dir))
	}
	os.Exit(m.Run())
}

// powerMedia is the same in worker and judge. Each has its own priority, so that all ways of eviction happen.
func powerMedia(t testing.TB) []*media {
	var ms []*media
	for i := range 6 {
		ms = append(ms, newMedia(t, uint64(200+i), (8+5*i)*testPiece+i))
	}
	return ms
}

func powerOptions(dir string) Options {
	return Options{
		Dir: filepath.Join(dir, "cache"), StateDir: filepath.Join(dir, "state"), Quota: powerQuota, KeepPrefix: 2 * testPiece,
		GroupBytes: powerGroup, GroupInterval: 15 * time.Millisecond, ScrubPeriod: -1, SpaceCheck: 10 * time.Millisecond,
		Health: health.New(nil),
	}
}

// noSync is a file system that never syncs the data: the negative control.
type noSync struct{ durable.FS }

type noSyncFile struct{ durable.File }

func (noSyncFile) Sync() error { return nil }

func (f noSync) OpenRW(name string) (durable.File, error) {
	file, err := f.FS.OpenRW(name)
	return noSyncFile{file}, err
}

// work does random things until it is killed, and tells what it does before (L, E, F) or after (V, f) the fact.
func work(dir string, lie bool) int {
	t := &workerTB{}
	o := powerOptions(dir)
	if lie {
		o.FS = noSync{durable.OS()}
	}
	c, err := Open(o)
	if err != nil {
		fmt.Println("!", err)
		return 1
	}
	ms := powerMedia(t)
	index := map[asset.ID]int{}
	for i, m := range ms {
		index[m.info.ID] = i
	}
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(os.Stdout, format+"\n", args...) // a broken pipe means that the judge is gone
	}
	c.OnEvict(func(id asset.ID) { say("E %d", index[id]) })
	go func() { _ = c.Run(context.Background()) }()
	for running := false; !running; runtime.Gosched() { // who writes before Run commits waits for nothing
		c.mu.Lock()
		running = c.running
		c.mu.Unlock()
	}
	say("R")
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for {
		i := rnd.IntN(len(ms))
		m := ms[i]
		a, ok := c.Asset(m.info.ID)
		if !ok || rnd.IntN(60) == 0 {
			attr := Attr{Name: m.info.Name, Priority: rnd.IntN(3)}
			if rnd.IntN(3) == 0 {
				attr.PrefixBytes = testPiece * int64(1+rnd.IntN(8))
			}
			if a, err = c.Create(m.torrent, attr); err != nil {
				continue // no room
			}
		}
		p := rnd.IntN(m.info.NumPieces())
		switch k := rnd.IntN(40); {
		case k == 0:
			say("F")
			if c.Flush() == nil {
				say("f")
			}
		case k == 1:
			_ = c.Remove(m.info.ID, "worker") // tells E first
		case k < 5 && a.Have(p):
			say("L %d %d", i, p)
			if a.MarkMissing(p) == nil {
				_, _ = a.WriteAt(make([]byte, testPiece/2), int64(p)*testPiece) // rubbish in its place
			}
		case put(a, m, p) == nil:
			say("V %d %d", i, p)
		}
	}
}

// workerTB lets the worker use the helpers of the tests.
type workerTB struct{ testing.TB }

func (*workerTB) Helper()           {}
func (*workerTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// ledger is what the judge heard.
type ledger struct {
	verified, durable, flushing map[[2]int]bool
}

func (l *ledger) hear(line string) {
	var a, p int
	switch k, _ := fmt.Sscanf(line[1:], " %d %d", &a, &p); {
	case line[0] == 'V' && k == 2:
		l.verified[[2]int{a, p}] = true
	case line[0] == 'L' && k == 2:
		for _, set := range []map[[2]int]bool{l.verified, l.durable, l.flushing} {
			delete(set, [2]int{a, p})
		}
	case line[0] == 'E' && k >= 1:
		for _, set := range []map[[2]int]bool{l.verified, l.durable, l.flushing} {
			for key := range set {
				if key[0] == a {
					delete(set, key)
				}
			}
		}
	case line[0] == 'F':
		l.flushing = map[[2]int]bool{}
		for key := range l.verified {
			l.flushing[key] = true
		}
	case line[0] == 'f':
		for key := range l.flushing {
			l.durable[key] = true
		}
	}
}

// killOnce lets a worker run for a while, ends it with cut, and returns what it had said.
func killOnce(t *testing.T, dir string, l *ledger, lie bool, after time.Duration, cut func(*os.Process)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+dir)
	if lie {
		cmd.Env = append(cmd.Env, noSyncEnv+"=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("optional: a program under emulation cannot start itself")
	} else if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	first, err := in.ReadString('\n')
	if err != nil || first != "R\n" {
		t.Fatalf("worker: %q, %v", first, err)
	}
	timer := time.AfterFunc(after, func() { cut(cmd.Process) })
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break // a half line was not said
		}
		if !lie || !errors.Is(err, io.EOF) {
			l.hear(strings.TrimSuffix(line, "\n"))
		}
	}
	timer.Stop()
	_ = cmd.Wait() // killed
}

// judgeFiles opens the cache after a kill and compares it with what was heard. It returns the bytes to be fetched again.
// A damaged index may fall back to the commit before: so much of what was durable may have to be fetched again.
func judgeFiles(t testing.TB, dir string, ms []*media, l *ledger, damaged bool) (lost int64, err error) {
	o := powerOptions(dir)
	c, err := Open(o)
	if err != nil {
		return 0, err
	}
	settleAll(c)
	now, err := inventory(c, ms)
	spared := int64(0)
	if damaged {
		spared = powerGroup + testPiece
	}
	for key := range l.durable {
		if now[key] {
			continue
		}
		if spared -= testPiece; spared < 0 {
			err = errors.Join(err, fmt.Errorf("asset %d piece %d was durable and is lost", key[0], key[1]))
		}
	}
	for key := range l.verified {
		if !now[key] {
			lost += testPiece
		}
	}
	// What was being removed when the index was lost is adopted again: Run begins with making room.
	c.CheckSpace()
	now, ierr := inventory(c, ms)
	err = errors.Join(err, ierr, consistent(c, durable.OS()), c.Close())
	*l = ledger{verified: now, durable: map[[2]int]bool{}}
	for key := range now {
		l.durable[key] = true
	}
	return lost, err
}

// inventory is all pieces that are there; they are read and compared.
func inventory(c *Cache, ms []*media) (map[[2]int]bool, error) {
	now := map[[2]int]bool{}
	for i, m := range ms {
		a, ok := c.Asset(m.info.ID)
		if !ok {
			continue
		}
		if err := rightBytes(a, m); err != nil {
			return now, err
		}
		for p := range m.info.NumPieces() {
			if a.Have(p) {
				now[[2]int{i, p}] = true
			}
		}
	}
	return now, nil
}

func powerDirs(t testing.TB, dir string) {
	must(t, os.MkdirAll(filepath.Join(dir, "cache", "assets"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "state"), 0o755))
}

func kills(t testing.TB, def int) int {
	if testing.Short() {
		def = 10
	}
	if s := os.Getenv("BOXD_POWER"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		return n
	}
	return def
}

// A process that works on the cache is killed at a random moment, again and again; every now and then its index is
// damaged as well.
func TestKilledAtRandom(t *testing.T) {
	dir := t.TempDir()
	powerDirs(t, dir)
	ms := powerMedia(t)
	l := &ledger{verified: map[[2]int]bool{}, durable: map[[2]int]bool{}}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	n := kills(t, 60)
	worst, sum, pieces := int64(0), int64(0), 0
	for i := range n {
		killOnce(t, dir, l, false, time.Duration(rnd.IntN(60_000))*time.Microsecond, func(p *os.Process) { _ = p.Kill() })
		damaged := i%8 == 7
		if damaged {
			path := filepath.Join(dir, "state", indexFile)
			b, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, damage(b, rnd), 0o600))
		}
		lost, err := judgeFiles(t, dir, ms, l, damaged)
		if err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if !damaged {
			worst = max(worst, lost)
		}
		sum, pieces = sum+lost, max(pieces, len(l.verified))
	}
	t.Logf("%d kills: up to %d pieces there; to be fetched again at most %.2f groups, on average %.2f",
		n, pieces, float64(worst)/powerGroup, float64(sum)/float64(n)/powerGroup)
	if worst > powerGroup+testPiece {
		t.Fatalf("%d bytes were lost at once, a group has %d", worst, powerGroup)
	}
	if pieces < min(20, n/3) {
		t.Fatalf("never more than %d pieces: the worker does not work", pieces)
	}
}

const (
	ext4Shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
	ext4NoLogFlush = 2
)

// loopFS is an ext4 in a file, whose power can be cut.
type loopFS struct {
	t          *testing.T
	image, dir string
}

func newLoopFS(t *testing.T) *loopFS {
	if testing.Short() {
		t.Skip("optional: mounts a disk")
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	l := &loopFS{t, filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "mnt")}
	must(t, os.WriteFile(l.image, nil, 0o600))
	must(t, os.Truncate(l.image, 96<<20))
	must(t, os.Mkdir(l.dir, 0o755))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", l.image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v %s", err, out)
	}
	l.mount()
	t.Cleanup(func() { _ = exec.Command("umount", l.dir).Run() }) // when the test failed in between
	return l
}

func (l *loopFS) mount() {
	if out, err := exec.Command("mount", "-o", "loop", l.image, l.dir).CombinedOutput(); err != nil {
		l.t.Skipf("no loop mounts here: %v %s", err, out)
	}
}

// cut loses everything that the disk was not told to keep.
func (l *loopFS) cut() {
	f, err := os.Open(l.dir)
	must(l.t, err)
	flag := uint32(ext4NoLogFlush)
	must(l.t, ioctlPointer(f, ext4Shutdown, &flag))
	must(l.t, f.Close())
}

func (l *loopFS) remount() {
	if out, err := exec.Command("umount", l.dir).CombinedOutput(); err != nil {
		l.t.Fatalf("umount: %v %s", err, out)
	}
	l.mount()
}

// The power is cut under a real ext4, with the real index.
func TestPowerCutUnderExt4(t *testing.T) {
	n := 6
	if os.Getenv("BOXD_POWER") != "" {
		n = 60
	}
	fsys := newLoopFS(t)
	powerDirs(t, fsys.dir)
	must(t, exec.Command("sync").Run())
	ms := powerMedia(t)
	l := &ledger{verified: map[[2]int]bool{}, durable: map[[2]int]bool{}}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	worst, pieces := int64(0), 0
	const enough = 20
	for i := 0; i < n || pieces < enough && i < 20*n; i++ { // a busy machine gets little done between two cuts
		cutExt4(t, fsys, l, false, time.Duration(50+rnd.IntN(250))*time.Millisecond)
		lost, err := judgeFiles(t, fsys.dir, ms, l, false)
		if err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		worst, pieces = max(worst, lost), max(pieces, len(l.verified))
	}
	t.Logf("%d cuts: up to %d pieces there; to be fetched again at most %.2f groups", n, pieces, float64(worst)/powerGroup)
	if pieces < enough {
		t.Fatalf("never more than %d pieces: the worker does not work", pieces)
	}
}

func cutExt4(t *testing.T, fsys *loopFS, l *ledger, lie bool, after time.Duration) {
	killOnce(t, fsys.dir, l, lie, after, func(p *os.Process) {
		// Stopped first: what it says after the cut would not be true.
		_ = p.Signal(syscall.SIGSTOP)
		fsys.cut()
		_ = p.Kill()
	})
	fsys.remount()
}

// The negative control: the same without syncing the data must be seen to do harm.
func TestPowerCutUnderExt4WithoutSyncIsNoticed(t *testing.T) {
	fsys := newLoopFS(t)
	powerDirs(t, fsys.dir)
	must(t, exec.Command("sync").Run())
	ms := powerMedia(t)
	for range 12 {
		l := &ledger{verified: map[[2]int]bool{}, durable: map[[2]int]bool{}}
		cutExt4(t, fsys, l, true, 300*time.Millisecond)
		if _, err := judgeFiles(t, fsys.dir, ms, l, false); err != nil {
			if strings.Contains(err.Error(), wrongBytes) {
				return
			}
			t.Logf("harm, but of another kind: %v", err) // without syncs anything may happen
		}
	}
	t.Fatal("data that was never synced survived: the test proves nothing")
}

// A real disk that is full, then read-only: the cache says so, serves what it has, and goes on when that ends.
func TestFullAndReadOnlyDisk(t *testing.T) {
	fsys := newLoopFS(t)
	powerDirs(t, fsys.dir)
	o := powerOptions(fsys.dir)
	o.GroupInterval = time.Hour // commits happen when this test says
	c := openOS(t, o)
	ms := powerMedia(t)
	a := create(t, c, ms[0], Attr{})
	must(t, put(a, ms[0], 0))
	must(t, c.Flush())

	ballast := filepath.Join(fsys.dir, "ballast")
	f, err := os.Create(ballast)
	must(t, err)
	for chunk := 1 << 20; chunk >= 512; chunk /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, chunk))
		}
	}
	must(t, f.Close())
	if _, err := c.Create(ms[1].torrent, Attr{}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("create on a full disk: %v", err)
	}
	must(t, put(a, ms[0], 1)) // its place is reserved
	if err := c.Flush(); err != nil && !o.Health.Has(CodeIndex) {
		t.Fatalf("no warning of %v", err)
	}
	must(t, rightBytes(a, ms[0]))
	must(t, os.Remove(ballast))
	must(t, c.Flush())
	create(t, c, ms[1], Attr{})
	if o.Health.Has(CodeIndex) || o.Health.Has(CodeNoSpace) {
		t.Fatalf("warnings stay: %v", o.Health.List())
	}
	must(t, c.Close())

	remount := func(how string) {
		if out, err := exec.Command("mount", "-o", "remount,"+how, fsys.dir).CombinedOutput(); err != nil {
			t.Fatalf("remount: %v %s", err, out)
		}
	}
	remount("ro")
	c = openOS(t, o)
	a, _ = c.Asset(ms[0].info.ID)
	if a.HaveCount() != 2 {
		t.Fatalf("read-only: %d pieces", a.HaveCount())
	}
	must(t, rightBytes(a, ms[0]))
	if err := put(a, ms[0], 2); !errors.Is(err, syscall.EROFS) || !o.Health.Has(CodeWrite) {
		t.Fatalf("write on a read-only disk: %v, %v", err, o.Health.List())
	}
	if err := c.SetAttr(ms[0].info.ID, Attr{Priority: 7}); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err == nil || !o.Health.Has(CodeIndex) {
		t.Fatalf("commit on a read-only disk: %v, %v", err, o.Health.List())
	}
	remount("rw")
	must(t, put(a, ms[0], 2))
	must(t, c.Flush())
	if len(o.Health.List()) != 0 {
		t.Fatalf("warnings stay: %v", o.Health.List())
	}
	c = reopen(t, c, o)
	a, _ = c.Asset(ms[0].info.ID)
	if a.HaveCount() != 3 || a.Status().Attr.Priority != 7 {
		t.Fatalf("%+v", a.Status())
	}
	must(t, c.Close())
}
