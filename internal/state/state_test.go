package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"boxd/internal/health"

	"go.etcd.io/bbolt"
)

func open(t *testing.T, path string, o Options) *DB {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() }) // a test may have closed it
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPutGetEachAppendSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d := open(t, path, Options{})
	must(t, d.Put("pins", []byte("a"), []byte("1")))
	must(t, d.Put("pins", []byte("b"), nil))
	must(t, d.Put("pins", []byte("c"), []byte("3")))
	must(t, d.Delete("pins", []byte("c")))
	must(t, d.Delete("none", []byte("c")))
	for want := uint64(1); want <= 3; want++ {
		if seq, err := d.Append("outbox", []byte(strconv.FormatUint(want, 10))); err != nil || seq != want {
			t.Fatalf("append: %d, %v; want %d", seq, err, want)
		}
	}
	must(t, d.Delete("outbox", SeqKey(3)))
	must(t, d.Close())

	d = open(t, path, Options{})
	if v, ok, err := d.Get("pins", []byte("a")); err != nil || !ok || string(v) != "1" {
		t.Fatalf("a: %q %v %v", v, ok, err)
	}
	if v, ok, err := d.Get("pins", []byte("b")); err != nil || !ok || len(v) != 0 {
		t.Fatalf("b: %q %v %v", v, ok, err)
	}
	if _, ok, err := d.Get("pins", []byte("c")); err != nil || ok {
		t.Fatalf("c: %v %v", ok, err)
	}
	var all []string
	must(t, d.Each("outbox", func(k, v []byte) error { all = append(all, fmt.Sprintf("%x=%s", k, v)); return nil }))
	if fmt.Sprint(all) != "[0000000000000001=1 0000000000000002=2]" {
		t.Fatalf("outbox: %v", all)
	}
	if seq, err := d.Append("outbox", nil); err != nil || seq != 4 {
		t.Fatalf("a number was used again: %d, %v", seq, err)
	}
	if d.Restored() {
		t.Fatal("nothing was restored")
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path, Options{})
	if _, err := Open(path, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
}

func TestNewerFormatIsLeftUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := OpenBolt(path, Bolt{Format: Format + 1})
	must(t, err)
	must(t, db.Close())
	before, err := os.ReadFile(path)
	must(t, err)
	d := open(t, path, Options{})
	must(t, d.Put("pins", []byte("a"), []byte("1")))
	must(t, d.Close())
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Fatal("the newer file was changed")
	}
	if _, ok, err := open(t, path, Options{}).Get("pins", []byte("a")); err != nil || !ok {
		t.Fatalf("the older program's own file: %v %v", ok, err)
	}
}

func TestBackupTakesThePlaceOfADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d := open(t, path, Options{})
	must(t, d.Put("pins", []byte("a"), []byte("1")))
	must(t, d.Close()) // backs up
	must(t, os.WriteFile(path, []byte("not a database"), 0o600))
	h := health.New(nil)
	d = open(t, path, Options{Health: h})
	if v, ok, err := d.Get("pins", []byte("a")); err != nil || !ok || string(v) != "1" {
		t.Fatalf("after the backup: %q %v %v", v, ok, err)
	}
	if !d.Restored() || !h.Has(CodeRestored) {
		t.Fatalf("nobody was told: %v", h.List())
	}
	must(t, d.Close())
	must(t, os.Remove(path))
	d = open(t, path, Options{})
	if _, ok, _ := d.Get("pins", []byte("a")); !ok {
		t.Fatal("a file that is gone is not taken from the backup")
	}
	must(t, d.Close())
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.WriteFile(path+backupSuffix, []byte{1, 2, 3}, 0o600))
	h = health.New(nil)
	d = open(t, path, Options{Health: h})
	if _, ok, err := d.Get("pins", []byte("a")); ok || err != nil || !h.Has(CodeLost) {
		t.Fatalf("both damaged: %v %v %v", ok, err, h.List())
	}
}

// build makes a database with a deep tree, an inline bucket and free pages, and says what is in it.
func build(t testing.TB, path string, n int) map[string]string {
	db, err := OpenBolt(path, Bolt{Format: Format})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		err := db.Update(func(tx *bbolt.Tx) error {
			for i := range n {
				bucket, k := "big", fmt.Sprintf("key-%06d", rnd.IntN(4*n))
				if i < 3 {
					bucket = "small"
				}
				b, err := tx.CreateBucketIfNotExists([]byte(bucket))
				if err != nil {
					return err
				}
				v := bytes.Repeat([]byte{byte(round)}, rnd.IntN(300))
				want[bucket+"/"+k] = string(v)
				if err := b.Put([]byte(k), frame(bucket, []byte(k), v)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return want
}

func TestWalkSeesAllThatIsStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	want := build(t, path, 500)
	b, err := os.ReadFile(path)
	must(t, err)
	got := map[string]string{}
	live, total, err := Walk(bytes.NewReader(b), int64(len(b)), false, func(bucket string, k, v []byte) {
		if bucket != metaBucket {
			v, err := unframe(bucket, k, v)
			must(t, err)
			got[bucket+"/"+string(k)] = string(v)
		}
	})
	must(t, err)
	if len(got) != len(want) || live <= 0 || live > total {
		t.Fatalf("%d pairs of %d, %d bytes live of %d", len(got), len(want), live, total)
	}
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("%s differs", k)
		}
	}
}

// A file damaged anywhere opens with what was stored, or is refused; bbolt never gets to panic in its own goroutine.
func TestDamagedAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	want := build(t, path, 200)
	clean, err := os.ReadFile(path)
	must(t, err)
	refused, opened, salvaged := 0, 0, 0
	seeds := 400
	if testing.Short() {
		seeds = 100
	}
	for seed := range uint64(seeds) {
		b := Damage(clean, rand.New(rand.NewPCG(seed, 7)))
		must(t, os.WriteFile(path, b, 0o600))
		n := 0
		_, _, _ = Walk(bytes.NewReader(b), int64(len(b)), true, func(bucket string, k, v []byte) {
			if v, err := unframe(bucket, k, v); err == nil && want[bucket+"/"+string(k)] == string(v) {
				n++
			}
		})
		salvaged += n
		db, err := OpenBolt(path, Bolt{Format: Format})
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			refused++
			continue
		}
		opened++
		d := &DB{path: path, db: db, o: Options{BackupEvery: 1 << 62}}
		for k := range want {
			bucket, key, _ := bytes.Cut([]byte(k), []byte("/"))
			v, ok, err := d.Get(string(bucket), key)
			if ok && err == nil && want[k] != string(v) && len(v) != 0 {
				old := len(v) < 300 && bytes.Count(v, v[:1]) == len(v) // an older version is the worst that may be seen
				if !old {
					t.Fatalf("seed %d: %s is %q", seed, k, v)
				}
			}
		}
		must(t, Guard(func() error {
			return db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists([]byte("big"))
				if err != nil {
					return err
				}
				return b.Put([]byte("new"), []byte("value"))
			})
		}))
		must(t, db.Close())
	}
	t.Logf("%d refused, %d opened, %d pairs could be salvaged per file of %d", refused, opened, salvaged/seeds, len(want))
	if refused < seeds/8 || opened == 0 {
		t.Fatalf("%d refused, %d opened: the damage is not what it should be", refused, opened)
	}
}

// Damage changes a file as a bad flash does: bits, blocks of zeros, of noise or of the file's other blocks, a cut end.
func Damage(clean []byte, rnd *rand.Rand) []byte {
	b := bytes.Clone(clean)
	for range 1 + rnd.IntN(4) {
		off := rnd.IntN(len(b))
		block := b[off/512*512 : min(len(b), off/512*512+512<<rnd.IntN(4))]
		switch rnd.IntN(5) {
		case 0:
			b[off] ^= 1 << rnd.IntN(8)
		case 1:
			clear(block)
		case 2:
			for i := range block {
				block[i] = byte(rnd.Uint32())
			}
		case 3:
			copy(block, b[rnd.IntN(len(b))/512*512:])
		case 4:
			if len(b) > 8192 && rnd.IntN(4) == 0 {
				b = b[:len(b)/2+rnd.IntN(len(b)/2)]
			} else {
				b[off] = byte(rnd.Uint32())
			}
		}
	}
	return b
}

func TestCompactsWhenItPays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d := open(t, path, Options{})
	must(t, d.Put("big", []byte("x"), make([]byte, 2<<20)))
	must(t, d.Put("pins", []byte("a"), []byte("1")))
	must(t, d.Delete("big", []byte("x")))
	must(t, d.Close())
	before, err := os.Stat(path)
	must(t, err)
	d = open(t, path, Options{})
	after, err := os.Stat(path)
	must(t, err)
	if after.Size() > before.Size()/10 {
		t.Fatalf("%d bytes before, %d after", before.Size(), after.Size())
	}
	if v, ok, err := d.Get("pins", []byte("a")); err != nil || !ok || string(v) != "1" {
		t.Fatalf("after compaction: %q %v %v", v, ok, err)
	}
}

func FuzzWalk(f *testing.F) {
	path := filepath.Join(f.TempDir(), "x.db")
	build(f, path, 20)
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint16(0), uint64(0))
	f.Add(b[:8192], uint16(3), uint64(9))
	f.Fuzz(func(_ *testing.T, b []byte, page uint16, val uint64) {
		// The fuzzer cannot compute a meta checksum: let it aim at the tree through a valid one.
		if at := int(page) * 8; at+8 <= len(b) {
			b = bytes.Clone(b)
			le.PutUint64(b[at:], val)
		}
		for _, salvage := range []bool{false, true} {
			n := 0
			_, _, _ = Walk(bytes.NewReader(b), int64(len(b)), salvage, func(string, []byte, []byte) { n++ })
			if n > len(b) {
				panic("more pairs than bytes")
			}
		}
	})
}
