package cache

import (
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"boxd/internal/asset"
	"boxd/internal/durable"
	"boxd/internal/health"

	"github.com/anacrolix/torrent/bencode"
	"golang.org/x/sys/unix"
)

const testPiece = asset.MinPieceLength

// media is an asset to put into a cache.
type media struct {
	data    []byte
	torrent []byte
	info    *asset.Info
}

// newMedia makes an asset of files of the given lengths with pieces of 16 KiB.
func newMedia(t testing.TB, seed uint64, lengths ...int) *media {
	t.Helper()
	total := 0
	for _, n := range lengths {
		total += n
	}
	data := make([]byte, total)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	_, _ = r.Read(data) // never fails
	return mediaOf(t, fmt.Sprintf("film-%d", seed), data, testPiece, lengths)
}

func mediaOf(t testing.TB, name string, data []byte, pieceLen int, lengths []int) *media {
	t.Helper()
	var hashes []byte
	for off := 0; off < len(data); off += pieceLen {
		h := sha1.Sum(data[off:min(off+pieceLen, len(data))])
		hashes = append(hashes, h[:]...)
	}
	info := map[string]any{"name": name, "piece length": pieceLen, "pieces": string(hashes), "private": 1}
	if len(lengths) == 1 {
		info["length"] = lengths[0]
	} else {
		var files []any
		for i, n := range lengths {
			files = append(files, map[string]any{"length": n, "path": []string{fmt.Sprintf("part-%d", i)}})
		}
		info["files"] = files
	}
	b, err := bencode.Marshal(map[string]any{"info": info})
	if err != nil {
		t.Fatal(err)
	}
	in, err := asset.ParseTorrent(b)
	if err != nil {
		t.Fatal(err)
	}
	return &media{data, b, in}
}

func (m *media) piece(i int) []byte {
	off, n := m.info.PieceSpan(i)
	return m.data[off : off+n]
}

// memRows is an index in a file of the in-memory file system, replaced as a whole: atomic and durable as bbolt is.
type memRows struct {
	fs   durable.FS
	path string
	mu   sync.Mutex
	rows map[asset.ID][]byte
}

type memRow struct {
	K []byte `bencode:"k"`
	V []byte `bencode:"v"`
}

func openMemRows(fsys durable.FS, path string) (*memRows, bool, error) {
	m := &memRows{fs: fsys, path: path, rows: map[asset.ID][]byte{}}
	if _, err := fsys.Stat(path); err != nil {
		return m, true, nil
	}
	b, err := durable.ReadFile(fsys, path, 1<<30)
	if err != nil {
		return m, true, errIndexClosed{err}
	}
	var list []memRow
	if err := bencode.Unmarshal(b, &list); err != nil {
		return m, true, nil
	}
	for _, r := range list {
		m.rows[asset.ID(r.K)] = r.V
	}
	return m, false, nil
}

func (m *memRows) load(fn func(asset.ID, []byte)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, v := range m.rows {
		fn(id, v)
	}
	return nil
}

func (m *memRows) apply(puts map[asset.ID][]byte, dels []asset.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := make(map[asset.ID][]byte, len(m.rows)+len(puts))
	for k, v := range m.rows {
		next[k] = v
	}
	for k, v := range puts {
		next[k] = v
	}
	for _, k := range dels {
		delete(next, k)
	}
	list := make([]memRow, 0, len(next))
	for k, v := range next {
		list = append(list, memRow{k[:], v})
	}
	b, err := bencode.Marshal(list)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(m.fs, m.path, b, 0o600); err != nil {
		return err
	}
	m.rows = next
	return nil
}

func (m *memRows) close() error { return nil }

// memOptions is a cache in an in-memory file system, which has the directories already.
func memOptions(m *durable.Mem) Options {
	return Options{
		Dir: "/cache", FS: m, Health: health.New(nil), ScrubPeriod: -1,
		openRows: func() (rowStore, bool, error) { return rowStoreOf(openMemRows(m, "/state/index")) },
	}
}

func rowStoreOf(m *memRows, rebuild bool, err error) (rowStore, bool, error) { return m, rebuild, err }

func newMem(t testing.TB, capacity int64) *durable.Mem {
	t.Helper()
	m := durable.NewMem(capacity)
	for _, d := range []string{"/cache/assets", "/state"} {
		must(t, m.MkdirAll(d, 0o755))
	}
	for _, d := range []string{"/", "/cache", "/state"} {
		must(t, m.SyncDir(d))
	}
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openMem(t testing.TB, m *durable.Mem, change ...func(*Options)) *Cache {
	t.Helper()
	o := memOptions(m)
	for _, f := range change {
		f(&o)
	}
	c, err := Open(o)
	must(t, err)
	return c
}

func osOptions(t testing.TB) Options {
	return Options{Dir: t.TempDir(), StateDir: t.TempDir(), Health: health.New(nil), ScrubPeriod: -1}
}

func openOS(t testing.TB, o Options) *Cache {
	t.Helper()
	c, err := Open(o)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
	return c
}

func create(t testing.TB, c *Cache, m *media, attr Attr) *Asset {
	t.Helper()
	a, err := c.Create(m.torrent, attr)
	must(t, err)
	return a
}

// put writes one piece in blocks and has it verified.
func put(a *Asset, m *media, i int) error {
	off, n := m.info.PieceSpan(i)
	for in := int64(0); in < n; in += 8 << 10 {
		if _, err := a.WriteAt(m.data[off+in:off+min(n, in+8<<10)], off+in); err != nil {
			return err
		}
	}
	return a.MarkVerified(i)
}

func fill(t testing.TB, a *Asset, m *media) {
	t.Helper()
	for i := range m.info.NumPieces() {
		must(t, put(a, m, i))
	}
}

// run runs the cache until the test ends.
func run(t testing.TB, c *Cache) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	once := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(once)
	return once
}

// until waits for a condition that a change of the cache brings about.
func until(t testing.TB, c *Cache, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		ch := c.Changed()
		if ok() {
			return
		}
		select {
		case <-ch:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// sparseMedia is an asset of zeros that takes no memory.
func sparseMedia(t testing.TB, length int64, pieceLen int) *media {
	t.Helper()
	zero := make([]byte, pieceLen)
	whole := sha1.Sum(zero)
	var hashes []byte
	for off := int64(0); off < length; off += int64(pieceLen) {
		h := whole
		if left := length - off; left < int64(pieceLen) {
			h = sha1.Sum(zero[:left])
		}
		hashes = append(hashes, h[:]...)
	}
	b, err := bencode.Marshal(map[string]any{"info": map[string]any{
		"name": "large", "piece length": pieceLen, "pieces": string(hashes), "length": length, "private": 1,
	}})
	must(t, err)
	in, err := asset.ParseTorrent(b)
	must(t, err)
	return &media{nil, b, in}
}

func ioctlPointer(f *os.File, req uintptr, arg *uint32) error {
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(unsafe.Pointer(arg))); no != 0 {
		return no
	}
	return nil
}
