package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/durable"
)

func TestReaderWaitsForWhatIsMissingAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMem(t, newMem(t, 0), func(o *Options) { o.ReadAhead = 2 * testPiece })
		m := newMedia(t, 40, 8*testPiece)
		a := create(t, c, m, Attr{})
		must(t, put(a, m, 0))
		r, err := a.OpenFile(t.Context(), m.info.Name)
		must(t, err)
		got := make(chan []byte)
		go func() {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			got <- b
		}()
		synctest.Wait() // piece 0 is read, the reader waits for piece 1
		if d := a.Demand(); !slices.Equal(d, []Span{{1, 2, true, true}, {2, 3, false, false}}) {
			t.Fatalf("demand %v", d)
		}
		must(t, put(a, m, 2)) // not what it waits for
		synctest.Wait()
		if d := a.Demand(); !slices.Equal(d, []Span{{1, 2, true, true}}) {
			t.Fatalf("demand %v", d)
		}
		for _, i := range []int{7, 6, 5, 4, 3, 1} {
			must(t, put(a, m, i))
		}
		if !bytes.Equal(<-got, m.data) {
			t.Fatal("bytes differ")
		}
		must(t, r.Close())
		if d := a.Demand(); len(d) != 0 {
			t.Fatalf("demand without a reader: %v", d)
		}
	})
}

func TestReaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openMem(t, newMem(t, 0))
		m := newMedia(t, 41, 2*testPiece)
		a := create(t, c, m, Attr{})
		for name, end := range map[string]func(cancel func(), r *Reader){
			"cancelled": func(cancel func(), _ *Reader) { cancel() },
			"closed":    func(_ func(), r *Reader) { _ = r.Close() },
		} {
			ctx, cancel := context.WithCancel(t.Context())
			r, err := a.OpenFile(ctx, m.info.Name)
			must(t, err)
			done := make(chan error)
			go func() {
				_, err := r.Read(make([]byte, 10))
				done <- err
			}()
			synctest.Wait()
			end(cancel, r)
			if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, fs.ErrClosed) {
				t.Fatalf("%s: %v", name, err)
			}
			must(t, r.Close())
			cancel()
		}
		if _, err := a.OpenFile(t.Context(), "no such file"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
}

func TestReadErrorBecomesAMissAndIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t, 0)
		var o Options
		c := openMem(t, mem, func(p *Options) { o = *p })
		m := newMedia(t, 42, 4*testPiece)
		a := create(t, c, m, Attr{})
		fill(t, a, m)
		must(t, c.Flush())
		mem.SetFault(func(op durable.Op) error {
			if op.Kind == durable.OpRead && op.Off >= 2*testPiece && op.Off < 3*testPiece {
				return syscall.EIO
			}
			return nil
		})
		r, err := a.OpenFile(t.Context(), m.info.Name)
		must(t, err)
		got := make(chan []byte)
		go func() {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			got <- b
		}()
		synctest.Wait()
		if a.Have(2) || !o.Health.Has(CodeRead) {
			t.Fatalf("have %v, warnings %v", a.Have(2), o.Health.List())
		}
		if d := a.Demand(); !slices.Equal(d, []Span{{2, 3, true, true}}) {
			t.Fatalf("demand %v", d)
		}
		mem.SetFault(nil)
		must(t, put(a, m, 2)) // what fetch does
		if !bytes.Equal(<-got, m.data) {
			t.Fatal("bytes differ")
		}
		if o.Health.Has(CodeRead) {
			t.Fatal("the warning stays")
		}
		must(t, r.Close())
	})
}

func TestReadErrorThatNobodyRepairsFailsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMem(t, 0)
		c := openMem(t, mem)
		m := newMedia(t, 43, testPiece)
		a := create(t, c, m, Attr{})
		fill(t, a, m)
		mem.SetFault(func(op durable.Op) error {
			if op.Kind == durable.OpRead {
				return syscall.EIO
			}
			return nil
		})
		r, err := a.OpenFile(t.Context(), m.info.Name)
		must(t, err)
		start := time.Now()
		if _, err := r.Read(make([]byte, 10)); !errors.Is(err, ErrNotVerified) {
			t.Fatal(err)
		}
		if d := time.Since(start); d < time.Second || d > time.Minute {
			t.Fatalf("after %s", d)
		}
		must(t, r.Close())
	})
}

func TestShortFileBecomesAMiss(t *testing.T) {
	o := osOptions(t)
	c := openOS(t, o)
	m := newMedia(t, 44, 6*testPiece)
	fill(t, create(t, c, m, Attr{}), m)
	must(t, c.Close())
	blob := blobOf(t, o.Dir)
	must(t, os.Truncate(blob, 3*testPiece+5))
	c = openOS(t, o)
	a, _ := c.Asset(m.info.ID)
	if _, err := a.ReadVerifiedAt(make([]byte, 10), 4*testPiece); !errors.Is(err, ErrNotVerified) {
		t.Fatal(err)
	}
	if a.HaveCount() != 3 {
		t.Fatalf("%d pieces", a.HaveCount())
	}
	must(t, put(a, m, 5)) // makes the file long again, with a hole
	c2 := reopen(t, c, o)
	a, _ = c2.Asset(m.info.ID)
	must(t, rightBytes(a, m))
	if a.HaveCount() != 4 {
		t.Fatalf("%d pieces", a.HaveCount())
	}
}

func reopen(t *testing.T, c *Cache, o Options) *Cache {
	t.Helper()
	must(t, c.Close())
	return openOS(t, o)
}

func blobOf(t testing.TB, dir string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "assets", "*"+blobSuffix))
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("blobs: %v", list)
	}
	return list[0]
}

// sendfileWriter is what httpapi wraps around a ResponseWriter.
type sendfileWriter struct{ http.ResponseWriter }

func (w sendfileWriter) ReadFrom(src io.Reader) (int64, error) {
	if lr, ok := src.(*io.LimitedReader); ok {
		if r, ok := lr.R.(*Reader); ok {
			n, err := r.SendN(w.ResponseWriter, lr.N)
			lr.N -= n
			return n, err
		}
	}
	return io.Copy(w.ResponseWriter, src)
}

func serve(t testing.TB, a *Asset) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r, err := a.OpenFile(q.Context(), strings.TrimPrefix(q.URL.Path, "/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		defer func() { _ = r.Close() }() // read only
		w.Header().Set("Content-Type", "video/mp4")
		http.ServeContent(sendfileWriter{w}, q, "", time.Time{}, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestRangesOverHTTPUseSendfile(t *testing.T) {
	o := osOptions(t)
	o.inFlight = 1 << 20
	c := openOS(t, o)
	m := newMedia(t, 45, 5<<20, 100, 2<<20)
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	srv := serve(t, a)
	for _, f := range m.info.Files {
		for _, rg := range [][2]int64{{0, f.Length - 1}, {f.Length / 2, f.Length - 1}, {7, 7}, {3, min(99, f.Length-1)}} {
			q, err := http.NewRequest(http.MethodGet, srv.URL+"/"+f.Path, nil)
			must(t, err)
			q.Header.Set("Range", "bytes="+itoa(rg[0])+"-"+itoa(rg[1]))
			res, err := http.DefaultClient.Do(q)
			must(t, err)
			got, err := io.ReadAll(res.Body)
			must(t, err)
			must(t, res.Body.Close())
			if res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, m.data[f.Offset+rg[0]:f.Offset+rg[1]+1]) {
				t.Fatalf("%s %v: %s, %d bytes", f.Path, rg, res.Status, len(got))
			}
		}
	}
	if s := c.Stats(); s.SendfileBytes < 6<<20 || s.CopiedBytes > 12<<20 {
		t.Fatalf("%+v", s)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// sendfile queues the pages of the file itself. What is in flight must not change when a piece is lost and written anew.
func TestBytesInFlightDoNotChange(t *testing.T) {
	o := osOptions(t)
	o.leaseWait = time.Millisecond
	c := openOS(t, o)
	m := newMedia(t, 48, int(inFlight())+(20<<20))
	a := create(t, c, m, Attr{})
	fill(t, a, m)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }() // a test's
	sent := make(chan error)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			sent <- err
			return
		}
		r, err := a.OpenFile(t.Context(), m.info.Name)
		if err == nil {
			_, err = r.SendN(conn, r.Size())
			err = errors.Join(err, r.Close(), conn.Close())
		}
		sent <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	got := make([]byte, 1, len(m.data)+1)
	_, err = io.ReadFull(conn, got) // something was sent, so the first chunk was queued
	must(t, err)
	for c.Stats().SendfileBytes == 0 { // counted just after it was queued
		runtime.Gosched()
	}
	must(t, a.MarkMissing(3))
	if _, err := a.WriteAt(bytes.Repeat([]byte{9}, testPiece), 3*testPiece); !errors.Is(err, ErrInUse) {
		t.Fatalf("written under a player's eyes: %v", err)
	}
	rest, err := io.ReadAll(conn)
	must(t, err)
	must(t, conn.Close())
	must(t, <-sent)
	if !bytes.Equal(append(got, rest...), m.data) {
		t.Fatal("bytes changed in flight")
	}
	must(t, put(a, m, 3))
	if s := c.Stats(); s.SendfileBytes < 10<<20 {
		t.Fatalf("%+v", s)
	}
}

// The kernel sends only what is verified, also while the rest arrives, gets lost and is written again with rubbish.
func TestConcurrentReadersWhilePiecesComeAndGo(t *testing.T) {
	c := openOS(t, osOptions(t))
	m := newMedia(t, 46, 64*testPiece)
	a := create(t, c, m, Attr{})
	srv := serve(t, a)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			res, err := http.Get(srv.URL + "/" + m.info.Name)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = res.Body.Close() }() // read only
			got, err := io.ReadAll(res.Body)
			if err != nil || !bytes.Equal(got, m.data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	stop := make(chan struct{})
	var bad sync.WaitGroup
	bad.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 1))
		buf := make([]byte, 3000)
		for {
			select {
			case <-stop:
				return
			default:
			}
			off := rnd.IntN(len(m.data) - len(buf))
			if n, err := a.ReadVerifiedAt(buf, int64(off)); err == nil && !bytes.Equal(buf[:n], m.data[off:off+n]) {
				t.Error("wrong bytes")
				return
			}
		}
	})
	rnd := rand.New(rand.NewPCG(2, 2))
	for _, i := range rnd.Perm(64) {
		must(t, put(a, m, i))
		if lost := rnd.IntN(64); rnd.IntN(3) == 0 && a.Have(lost) {
			must(t, a.MarkMissing(lost))
			_, err := a.WriteAt(make([]byte, testPiece), int64(lost)*testPiece)
			for errors.Is(err, ErrInUse) {
				_, err = a.WriteAt(make([]byte, testPiece), int64(lost)*testPiece)
			}
			must(t, err)
			if err := a.MarkVerified(lost); !errors.Is(err, ErrHash) {
				t.Fatal(err)
			}
		}
	}
	for i := range 64 {
		for !a.Have(i) {
			if err := put(a, m, i); err != nil && !errors.Is(err, ErrInUse) {
				t.Fatal(err)
			}
		}
	}
	wg.Wait()
	close(stop)
	bad.Wait()
}

func TestReadBeyondAPrefixReservesTheRest(t *testing.T) {
	c := openMem(t, newMem(t, 0), func(o *Options) { o.Quota = 20 * testPiece })
	m := newMedia(t, 47, 10*testPiece)
	a := create(t, c, m, Attr{PrefixBytes: testPiece + 1})
	if a.Reserved() != 2*testPiece {
		t.Fatalf("reserved %d", a.Reserved())
	}
	if err := put(a, m, 5); !errors.Is(err, ErrNotReserved) {
		t.Fatal(err)
	}
	must(t, put(a, m, 0))
	must(t, put(a, m, 1))
	r, err := a.OpenFile(context.Background(), m.info.Name)
	must(t, err)
	got := make(chan []byte)
	go func() {
		b, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	until(t, c, "rest reserved", func() bool { return a.Reserved() == 10*testPiece })
	for i := 2; i < 10; i++ {
		must(t, put(a, m, i))
	}
	if !bytes.Equal(<-got, m.data) {
		t.Fatal("bytes differ")
	}
	must(t, r.Close())
}

// Assets of 4 GiB and more, whose offsets do not fit 32 bits.
func TestMoreThanFourGiB(t *testing.T) {
	const pieceLen = 16 << 20
	o := osOptions(t)
	c := openOS(t, o)
	m := sparseMedia(t, 5<<30+12345, pieceLen)
	a, err := c.Create(m.torrent, Attr{})
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNoSpace) {
		t.Skip("needs 5 GiB of disk")
	}
	must(t, err)
	zero := make([]byte, pieceLen)
	last := m.info.NumPieces() - 1
	for _, i := range []int{0, 256, 319, last} { // 256 begins at 4 GiB
		off, n := m.info.PieceSpan(i)
		_, err := a.WriteAt(zero[:n], off)
		must(t, err)
		must(t, a.MarkVerified(i))
	}
	must(t, c.Flush())
	r, err := a.OpenFile(context.Background(), m.info.Name)
	must(t, err)
	_, err = r.Seek(4<<30+5, io.SeekStart)
	must(t, err)
	if n, err := io.ReadFull(r, zero[:1<<20]); err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	_, err = r.Seek(-100, io.SeekEnd)
	must(t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = r.SendN(w, 1<<20) }))
	defer srv.Close()
	res, err := http.Get(srv.URL)
	must(t, err)
	if b, err := io.ReadAll(res.Body); err != nil || len(b) != 100 {
		t.Fatal(len(b), err)
	}
	must(t, res.Body.Close())
	must(t, r.Close())
	c = reopen(t, c, o)
	a, _ = c.Asset(m.info.ID)
	if a.HaveCount() != 4 || !a.Have(last) || a.Bytes() != 3*pieceLen+12345 {
		t.Fatalf("%+v", a.Status())
	}
}
