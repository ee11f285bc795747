//go:build bench

package cache

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/state"

	"go.etcd.io/bbolt"
)

// The figures of `make bench-cache`. They need root (a loop mount to count what reaches the block layer), nginx and
// sha1sum; a part that lacks what it needs says so.
const (
	benchPiece = 1 << 20
	benchSize  = 1 << 30
	benchBlock = 16 << 10
)

func benchMedia(t testing.TB, size int) *media {
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(data)
	return mediaOf(t, "film", data, benchPiece, []int{size})
}

// loopDisk is an ext4 on a block device of its own, so that its counters are nobody else's.
func loopDisk(t *testing.T, size int64) (dir, stat string) {
	image, dir := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "mnt")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, size))
	must(t, os.Mkdir(dir, 0o755))
	sh(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	dev := strings.TrimSpace(sh(t, "losetup", "--find", "--show", image))
	sh(t, "mount", dev, dir)
	t.Cleanup(func() {
		_ = exec.Command("umount", dir).Run()
		_ = exec.Command("losetup", "-d", dev).Run()
	})
	return dir, filepath.Join("/sys/block", filepath.Base(dev), "stat")
}

func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Skipf("%s: %v %s", name, err, out)
	}
	return string(out)
}

// ioStat is bytes written and flushes of a block device.
func ioStat(t testing.TB, path string) (written, flushes int64) {
	b, err := os.ReadFile(path)
	must(t, err)
	f := strings.Fields(string(b))
	sectors, err := strconv.ParseInt(f[6], 10, 64)
	must(t, err)
	if len(f) > 15 {
		flushes, err = strconv.ParseInt(f[15], 10, 64)
		must(t, err)
	}
	return sectors * 512, flushes
}

func download(t testing.TB, a *Asset, m *media, order []int, rate float64) {
	start, sent := time.Now(), 0
	for _, i := range order {
		off, n := m.info.PieceSpan(i)
		for in := int64(0); in < n; in += benchBlock {
			b := m.data[off+in : off+min(n, in+benchBlock)]
			_, err := a.WriteAt(b, off+in)
			must(t, err)
			if sent += len(b); rate > 0 {
				time.Sleep(time.Until(start.Add(time.Duration(float64(sent) / rate * float64(time.Second)))))
			}
		}
		must(t, a.MarkVerified(i))
	}
}

func TestBenchWrites(t *testing.T) {
	for _, tc := range []struct {
		name string
		size int
		rate float64
	}{{"unpaced", benchSize, 0}, {"50 Mbit/s", 96 << 20, 6.25e6}} {
		m := benchMedia(t, tc.size)
		dir, stat := loopDisk(t, 3<<30)
		sh(t, "sync", "-f", dir)
		w0, f0 := ioStat(t, stat)
		must(t, os.WriteFile(filepath.Join(dir, "plain"), m.data, 0o600))
		sh(t, "sync", "-f", dir)
		w1, f1 := ioStat(t, stat)
		must(t, os.Remove(filepath.Join(dir, "plain")))
		sh(t, "sync", "-f", dir)
		time.Sleep(6 * time.Second) // the journal's own commit
		o := Options{Dir: filepath.Join(dir, "cache"), StateDir: filepath.Join(dir, "state"), ScrubPeriod: -1}
		w2, f2 := ioStat(t, stat)
		c, err := Open(o)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		start, cpu := time.Now(), cpuSelf()
		a := create(t, c, m, Attr{})
		download(t, a, m, rand.New(rand.NewPCG(1, 1)).Perm(m.info.NumPieces()), tc.rate)
		cancel()
		must(t, <-done)
		d, used := time.Since(start), cpuSelf()-cpu
		s := c.Stats()
		must(t, c.Close())
		sh(t, "sync", "-f", dir)
		w3, f3 := ioStat(t, stat)
		gib := float64(tc.size) / (1 << 30)
		fmt.Printf("write %-9s  %4d MiB: to the block layer %.4f × asset bytes (plain file: %.4f); "+
			"per GiB: %.0f data syncs, %.0f index commits, %.0f device flushes (plain: %.0f); CPU %.2f s/GiB with SHA-1; %.0f MB/s; "+
			"hashed on the way %.1f %%\n",
			tc.name, tc.size>>20, float64(w3-w2)/float64(tc.size), float64(w1-w0)/float64(tc.size),
			float64(s.DataSyncs)/gib, float64(s.IndexCommits)/gib, float64(f3-f2)/gib, float64(f1-f0)/gib,
			used.Seconds()/gib, float64(tc.size)/1e6/d.Seconds(), 100*float64(s.HashedInlineBytes)/float64(tc.size))
	}
}

func cpuSelf() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func cpuOf(t testing.TB, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	u, err := strconv.Atoi(f[11])
	must(t, err)
	s, err := strconv.Atoi(f[12])
	must(t, err)
	return time.Duration(u+s) * 10 * time.Millisecond
}

func TestBenchHash(t *testing.T) {
	m := benchMedia(t, benchSize)
	path := filepath.Join(t.TempDir(), "film")
	must(t, os.WriteFile(path, m.data, 0o600))
	var ours, theirs []float64
	for range 3 {
		h, cpu := sha1.New(), cpuSelf()
		for off := 0; off < len(m.data); off += benchBlock {
			h.Write(m.data[off : off+benchBlock])
		}
		ours = append(ours, (cpuSelf() - cpu).Seconds())
		cmd := exec.Command("sha1sum", path)
		must(t, cmd.Run())
		theirs = append(theirs, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	fmt.Printf("hash: ours (in 16 KiB blocks) %.2f s/GiB of CPU, sha1sum %.2f s/GiB with reading\n", ours[1], theirs[1])
}

func init() { benchServe = serveBench }

// serveBench is the server in a process of its own.
func serveBench(dir string) int {
	c, err := Open(Options{Dir: filepath.Join(dir, "cache"), StateDir: filepath.Join(dir, "state"), ScrubPeriod: -1})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	a, ok := c.Asset(c.Assets()[0].ID)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || !ok {
		fmt.Println(err, ok)
		return 1
	}
	fmt.Println(l.Addr())
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r, err := a.OpenFile(q.Context(), "film")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer func() { _ = r.Close() }()
		w.Header().Set("Content-Type", "video/mp4")
		http.ServeContent(sendfileWriter{w}, q, "", time.Time{}, r)
	}))
	return 0
}

func TestBenchReads(t *testing.T) {
	m := benchMedia(t, benchSize)
	dir := t.TempDir()
	c, err := Open(Options{Dir: filepath.Join(dir, "cache"), StateDir: filepath.Join(dir, "state"), ScrubPeriod: -1})
	must(t, err)
	a := create(t, c, m, Attr{})
	for i := range m.info.NumPieces() {
		must(t, put(a, m, i))
	}
	must(t, c.Close())
	blob := blobOf(t, filepath.Join(dir, "cache"))
	www := filepath.Join(dir, "www")
	must(t, os.Mkdir(www, 0o755))
	must(t, os.WriteFile(filepath.Join(www, "film"), m.data, 0o644))
	must(t, os.Chmod(dir, 0o755))
	m.data = nil

	self := exec.Command(os.Args[0])
	self.Env = append(os.Environ(), benchServeEnv+"="+dir)
	out, err := self.StdoutPipe()
	must(t, err)
	must(t, self.Start())
	defer func() { _ = self.Process.Kill() }()
	var addr string
	_, err = fmt.Fscanln(out, &addr)
	must(t, err)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	nginxAddr := l.Addr().String()
	must(t, l.Close())
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, []byte(fmt.Sprintf("daemon off; master_process off; pid %s/pid; error_log stderr;\n"+
		"events {}\nhttp { access_log off; sendfile on; tcp_nopush on; server { listen %s; root %s; } }\n",
		dir, nginxAddr, www)), 0o600))
	ng := exec.Command("nginx", "-c", conf, "-p", dir)
	must(t, ng.Start())
	defer func() { _ = ng.Process.Kill() }()
	for range 100 {
		if conn, err := net.Dial("tcp", nginxAddr); err == nil {
			_ = conn.Close()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, cold := range []bool{true, false} {
		for _, s := range []struct {
			name, url, path string
			pid             int
		}{
			{"boxd", "http://" + addr + "/film", blob, self.Process.Pid},
			{"nginx", "http://" + nginxAddr + "/film", filepath.Join(www, "film"), ng.Process.Pid},
		} {
			benchRead(t, s.name, s.url, s.path, s.pid, cold)
		}
	}
}

func benchRead(t *testing.T, name, url, path string, pid int, cold bool) {
	const rounds = 3
	var rates, cpus []float64
	var lat []time.Duration
	for range rounds {
		if cold {
			uncacheFile(t, path)
		}
		cpu, start := cpuOf(t, pid), time.Now()
		n := get(t, url, "")
		rates = append(rates, float64(n)/1e6/time.Since(start).Seconds())
		cpus = append(cpus, (cpuOf(t, pid)-cpu).Seconds()/(float64(n)/(1<<30)))
	}
	rnd := rand.New(rand.NewPCG(3, 3))
	if cold {
		uncacheFile(t, path)
	}
	for range 300 {
		off := rnd.Int64N(benchSize - 1<<20)
		start := time.Now()
		get(t, url, fmt.Sprintf("bytes=%d-%d", off, off+256<<10-1))
		lat = append(lat, time.Since(start))
	}
	slices.Sort(rates)
	slices.Sort(cpus)
	slices.Sort(lat)
	kind := map[bool]string{true: "cold", false: "warm"}[cold]
	fmt.Printf("read %s %-5s: whole file %.0f MB/s, server CPU %.2f s/GiB; 256 KiB ranges: median %.2f ms, p95 %.2f ms\n",
		kind, name, rates[rounds/2], cpus[rounds/2], ms(lat[len(lat)/2]), ms(lat[len(lat)*95/100]))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func uncacheFile(t *testing.T, path string) {
	f, err := durable.OS().Open(path)
	must(t, err)
	f.(durable.Adviser).Advise(durable.Uncache, 0, 0)
	must(t, f.Close())
}

func get(t *testing.T, url, rg string) int64 {
	q, err := http.NewRequest(http.MethodGet, url, nil)
	must(t, err)
	if rg != "" {
		q.Header.Set("Range", rg)
	}
	res, err := http.DefaultClient.Do(q)
	must(t, err)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, make([]byte, 1<<20))
	must(t, err)
	must(t, res.Body.Close())
	return n
}

func TestBenchOpenIndex(t *testing.T) {
	const assets, perAsset = 10_000, 4000
	for _, kind := range []string{"complete", "random pieces"} {
		o := Options{Dir: t.TempDir(), StateDir: t.TempDir(), ScrubPeriod: -1}
		dir := filepath.Join(o.Dir, "assets")
		must(t, os.Mkdir(dir, 0o755))
		db, err := state.OpenBolt(filepath.Join(o.StateDir, indexFile), state.Bolt{Format: Format})
		must(t, err)
		rnd := rand.New(rand.NewPCG(4, 4))
		c := &Cache{dir: dir}
		must(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(assetsBucket))
			must(t, err)
			for i := range assets {
				id := asset.ID(sha1.Sum([]byte(strconv.Itoa(i))))
				r := &row{
					gen: uint32(i + 1), length: perAsset * benchPiece, pieceLen: benchPiece, alloc: perAsset * benchPiece,
					torrentLen: 80_200, have: newBits(perAsset), created: time.Now(), lastUse: time.Now(),
					attr: Attr{Name: "A film of two hours", Version: "1", Publisher: "studio", Priority: 3, KeepUntil: time.Now()},
				}
				for p := range perAsset {
					if kind == "complete" || rnd.IntN(2) == 0 {
						r.have.set(p)
					}
				}
				must(t, b.Put(id[:], r.encode(id)))
				must(t, os.WriteFile(c.torrentPath(id), nil, 0o600))
				must(t, os.WriteFile(c.blobPath(id, r.gen), nil, 0o600))
				must(t, os.Truncate(c.blobPath(id, r.gen), r.alloc))
			}
			return nil
		}))
		must(t, db.Close())
		var times []time.Duration
		var cpu time.Duration
		for range 5 {
			start, used := time.Now(), cpuSelf()
			c, err := Open(o)
			must(t, err)
			times = append(times, time.Since(start))
			cpu += (cpuSelf() - used) / 5
			if c.Usage().Assets != assets {
				t.Fatal(c.Usage())
			}
			must(t, c.Close())
		}
		slices.Sort(times)
		fi, err := os.Stat(filepath.Join(o.StateDir, indexFile))
		must(t, err)
		fmt.Printf("open an index of %d assets × %d pieces, %s: median %s (CPU %s), file %.1f MiB\n",
			assets, perAsset, kind, times[2].Round(time.Millisecond), cpu.Round(time.Millisecond), float64(fi.Size())/(1<<20))
	}
}

func TestBenchAllocs(t *testing.T) {
	m := benchMedia(t, 256<<20)
	c, err := Open(Options{Dir: t.TempDir(), StateDir: t.TempDir(), ScrubPeriod: -1})
	must(t, err)
	a := create(t, c, m, Attr{})
	i := 0
	n := testing.AllocsPerRun(m.info.NumPieces()-1, func() {
		download(t, a, m, []int{i}, 0)
		i++
	})
	fmt.Printf("allocations for each piece of %d KiB in %d blocks: %.1f\n", benchPiece>>10, benchPiece/benchBlock, n)
	must(t, c.Close())
}
