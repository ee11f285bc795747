package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
)

var errInjected = errors.New("injected")

func mustWrite(t *testing.T, fsys FS, name, data string) {
	t.Helper()
	if err := WriteFile(fsys, name, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWriteReadRemoveOnBothFileSystems(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS(), "mem": NewMem(0)} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			if err := fsys.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			f := filepath.Join(dir, "x")
			mustWrite(t, fsys, f, "one")
			mustWrite(t, fsys, f, "second")
			got, err := ReadFile(fsys, f, 6)
			if err != nil || string(got) != "second" {
				t.Fatalf("read %q, %v", got, err)
			}
			if _, err := ReadFile(fsys, f, 5); !errors.Is(err, ErrTooLarge) {
				t.Fatalf("limit: %v", err)
			}
			mustWrite(t, fsys, f, "")
			if got, err := ReadFile(fsys, f, 6); err != nil || len(got) != 0 {
				t.Fatalf("empty: %q, %v", got, err)
			}
			if list, err := fsys.ReadDir(dir); err != nil || len(list) != 1 || list[0].Name() != "x" {
				t.Fatalf("directory: %v, %v", list, err)
			}
			if err := RemoveFile(fsys, f); err != nil {
				t.Fatal(err)
			}
			if err := RemoveFile(fsys, f); err != nil {
				t.Fatalf("removing twice: %v", err)
			}
			if _, err := fsys.Open(f); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("open after removal: %v", err)
			}
			if avail, total, err := fsys.Free(dir); err != nil || avail <= 0 || total < avail {
				t.Fatalf("free: %d of %d, %v", avail, total, err)
			}
		})
	}
}

func TestAllocateReserves(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS(), "mem": NewMem(1 << 20)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := fsys.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			f, err := fsys.Create(filepath.Join(dir, "x"), 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Allocate(100 << 10); err != nil && !errors.Is(err, ErrNoAllocate) {
				t.Fatal(err)
			}
			if fi, err := f.Stat(); err != nil || fi.Size() != 100<<10 {
				t.Fatalf("size %v, %v", fi, err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestMemFull(t *testing.T) {
	m := NewMem(64 << 10)
	f, err := m.Create("/x", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(65 << 10); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("allocate beyond the disk: %v", err)
	}
	if err := f.Allocate(32 << 10); err != nil {
		t.Fatal(err)
	}
	m.SetOthers(32 << 10)
	if _, err := f.WriteAt(make([]byte, 32<<10), 0); err != nil {
		t.Fatalf("write into what was reserved: %v", err)
	}
	if _, err := f.WriteAt([]byte{1}, 32<<10); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write beyond it: %v", err)
	}
}

// WriteFile is cut off before each of its operations, and the disk is allowed to keep any part of what was not synced.
func TestWriteFileCrashedEverywhere(t *testing.T) {
	for op := 0; ; op++ {
		done := false
		for seed := uint64(0); seed < 20; seed++ {
			m := NewMem(0)
			mustWrite(t, m, "/f", "old content")
			n := 0
			m.SetFault(func(o Op) error {
				if o.Mutates() {
					if n == op {
						m.PowerOff()
					}
					n++
				}
				return nil
			})
			err := WriteFile(m, "/f", []byte("new content, longer"), 0o600)
			done = err == nil
			var rnd *rand.Rand
			if seed > 0 {
				rnd = rand.New(rand.NewPCG(seed, uint64(op)))
			}
			after := m.Crash(rnd)
			got, rerr := ReadFile(after, "/f", 100)
			if rerr != nil || (string(got) != "old content" && string(got) != "new content, longer") {
				t.Fatalf("op %d seed %d: %q, %v", op, seed, got, rerr)
			}
			if err == nil && string(got) != "new content, longer" {
				t.Fatalf("op %d seed %d: WriteFile returned nil and the old content is back", op, seed)
			}
		}
		if done {
			if op < 5 {
				t.Fatalf("only %d operations were cut", op)
			}
			return
		}
	}
}

// The negative control of the above: a write without sync and rename must be seen to lose or tear.
func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	outcomes := map[string]bool{}
	for seed := uint64(1); seed < 200; seed++ {
		m := NewMem(0)
		mustWrite(t, m, "/f", string(bytes.Repeat([]byte("a"), 3*memPage)))
		f, err := m.OpenRW("/f")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte("b"), 3*memPage), 0); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(m.Crash(rand.New(rand.NewPCG(seed, 0))), "/f", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		outcomes[string([]byte{got[0], got[memPage], got[2*memPage]})] = true
	}
	if len(outcomes) != 8 {
		t.Fatalf("saw %d of the 8 ways to tear three pages: %v", len(outcomes), outcomes)
	}
}

func TestWriteFileFaultsEverywhere(t *testing.T) {
	for _, fault := range []error{errInjected, syscall.ENOSPC, syscall.EIO, &ShortError{N: 3, Err: syscall.ENOSPC}} {
		for op := 0; ; op++ {
			m := NewMem(0)
			mustWrite(t, m, "/f", "old")
			n := 0
			m.SetFault(func(Op) error {
				n++
				if n == op+1 {
					return fault
				}
				return nil
			})
			err := WriteFile(m, "/f", []byte("newer"), 0o600)
			hit := n > op
			m.SetFault(nil)
			got, rerr := ReadFile(m, "/f", 100)
			if rerr != nil {
				t.Fatal(rerr)
			}
			if err == nil && string(got) != "newer" || err != nil && string(got) != "old" && string(got) != "newer" {
				t.Fatalf("%v at operation %d: err %v, content %q", fault, op, err, got)
			}
			if !hit {
				break
			}
			if err == nil {
				t.Fatalf("%v at operation %d was swallowed", fault, op)
			}
		}
	}
}

func TestFailedSyncLosesPages(t *testing.T) {
	m := NewMem(0)
	f, err := m.Create("/f", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	m.SetFault(func(o Op) error {
		if o.Kind == OpSync {
			return syscall.EIO
		}
		return nil
	})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	m.SetFault(nil)
	if err := f.Sync(); err != nil {
		t.Fatalf("the second sync finds nothing dirty: %v", err)
	}
	got := make([]byte, 4)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "data" {
		t.Fatalf("before the crash memory still has it: %q, %v", got, err)
	}
	b, err := ReadFile(m.Crash(nil), "/f", 10)
	if err != nil || string(b) == "data" {
		t.Fatalf("after it the disk has %q, %v", b, err)
	}
}

func ExampleWriteFile() {
	m := NewMem(0)
	fmt.Println(WriteFile(m, "/pins", []byte("film"), 0o600))
	b, err := ReadFile(m.Crash(nil), "/pins", 100)
	fmt.Println(string(b), err)
	// Output:
	// <nil>
	// film <nil>
}
