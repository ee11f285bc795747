package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/lan"
)

// home is a household on loopback ports.
type home struct {
	boxes []lan.Neighbour
	far   atomic.Bool // callers are not of the LAN
}

func (h *home) Neighbours() []lan.Neighbour { return h.boxes }
func (h *home) IsLAN(netip.Addr) bool       { return !h.far.Load() }

// store is an asset in memory; wrong turns its bytes over.
type store struct {
	info  *asset.Info
	data  []byte
	wrong bool
	held  atomic.Int32
	reads atomic.Int64
}

func (s *store) Info() *asset.Info { return s.info }
func (s *store) Hold() func()      { s.held.Add(1); return func() { s.held.Add(-1) } }

func (s *store) ReadVerifiedAt(p []byte, off int64) (int, error) {
	s.reads.Add(1)
	n := copy(p, s.data[off:])
	if s.wrong {
		p[0] ^= 1
	}
	return n, nil
}

// testAsset has two files, so that the second begins within a piece.
func testAsset(t *testing.T) (*asset.Info, []byte) {
	t.Helper()
	data := make([]byte, 700_000)
	_, _ = rand.Read(data)
	file := func(path string, b []byte) asset.Source {
		return asset.Source{Path: path, Length: int64(len(b)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b)), nil
		}}
	}
	tor, _, err := asset.Build(t.Context(), []asset.Source{file("a.txt", data[:100_000]), file("film.mp4", data[100_000:])},
		asset.BuildOptions{Name: "both", PieceLength: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	info, err := asset.ParseTorrent(tor)
	if err != nil {
		t.Fatal(err)
	}
	return info, data
}

// serving starts a box that holds s and enters it into the home.
func serving(t *testing.T, fleet *identitytest.Fleet, h *home, name string, s *store) *Remote {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	id := fleet.Box(name, "home")
	mux := id.NewMux(ln)
	r, err := New(Options{
		Identity: id, Home: h, Listener: mux.Listener(ALPN),
		Asset: func(a asset.ID) (Store, bool) { return s, a == s.info.ID },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- mux.Run(ctx) }()
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	h.boxes = append(h.boxes, lan.Neighbour{
		ID: name, Addr: netip.MustParseAddrPort(ln.Addr().String()), Holds: []asset.ID{s.info.ID},
	})
	return r
}

func reading(t *testing.T, id *identity.Identity, h *home) *Remote {
	t.Helper()
	r, err := New(Options{Identity: id, Home: h, Asset: func(asset.ID) (Store, bool) { return nil, false }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPlaysWhatAnotherBoxHolds(t *testing.T) {
	info, data := testAsset(t)
	fleet, h := identitytest.New(t), &home{}
	s := &store{info: info, data: data}
	server := serving(t, fleet, h, "holder", s)
	r := reading(t, fleet.Box("player", "home"), h)
	f, err := r.Open(t.Context(), info, "film.mp4")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, data[100_000:]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, off := range []int64{0, 599_990, 123_456, 65_000, 300_000} {
		if _, err := f.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 10)
		if _, err := io.ReadFull(f, part); err != nil || !bytes.Equal(part, data[100_000+off:][:10]) {
			t.Errorf("at %d: %v, %v", off, part, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if st, sv := r.Stats(), server.Stats(); st.Played < 600_000 || sv.Served < 600_000 || st.Wrong != 0 {
		t.Errorf("counted %+v and %+v", st, sv)
	}
	if len(r.seats) != 0 {
		t.Error("a seat is still taken")
	}
	for s.held.Load() != 0 { // the answer's end may come a moment later
		<-time.After(time.Millisecond)
	}
}

func TestWrongBytesReachNoPlayer(t *testing.T) {
	info, data := testAsset(t)
	fleet, h := identitytest.New(t), &home{}
	rogue := &store{info: info, data: data, wrong: true}
	serving(t, fleet, h, "rogue", rogue)
	r := reading(t, fleet.Box("player", "home"), h)
	f, err := r.Open(t.Context(), info, "a.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := io.ReadAll(f); len(n) != 0 || !errors.Is(err, errWrongHash) {
		t.Fatalf("read %d bytes, %v", len(n), err)
	}
	serving(t, fleet, h, "honest", &store{info: info, data: data})
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, data[:100_000]) {
		t.Fatalf("beside an honest box: %d bytes, %v", len(got), err)
	}
	if rogue.reads.Load() > 2 { // the piece that was read and the one ahead, no more
		t.Errorf("the rogue was asked %d times", rogue.reads.Load())
	}
}

func TestStrangersGetNothing(t *testing.T) {
	info, data := testAsset(t)
	fleet, h := identitytest.New(t), &home{}
	s := &store{info: info, data: data}
	serving(t, fleet, h, "holder", s)
	for name, c := range map[string]struct {
		id  *identity.Identity
		far bool
	}{
		"another fleet's box":             {identitytest.Named(t, "other").Box("player", "home"), false},
		"a box of the fleet, not at home": {fleet.Box("away", "home"), true},
	} {
		h.far.Store(c.far)
		r := reading(t, c.id, h)
		r.patience = 0
		f, err := r.Open(t.Context(), info, "a.txt")
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadAll(f); len(n) != 0 || err == nil {
			t.Errorf("%s read %d bytes, %v", name, len(n), err)
		}
		_ = f.Close()
	}
	if s.reads.Load() != 0 {
		t.Error("the store was read for a stranger")
	}
}

func TestOpenSaysWhyNot(t *testing.T) {
	info, _ := testAsset(t)
	fleet, h := identitytest.New(t), &home{}
	r := reading(t, fleet.Box("player", "home"), h)
	if _, err := r.Open(t.Context(), info, "a.txt"); !errors.Is(err, ErrNobody) {
		t.Errorf("an empty home: %v", err)
	}
	h.boxes = append(h.boxes, lan.Neighbour{ID: "x", Holds: []asset.ID{info.ID}})
	if _, err := r.Open(t.Context(), info, "b.txt"); err == nil {
		t.Error("a file that is not in the asset was opened")
	}
	var open []io.Closer
	for range MaxReaders {
		f, err := r.Open(t.Context(), info, "a.txt")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	if _, err := r.Open(t.Context(), info, "a.txt"); !errors.Is(err, ErrBusy) {
		t.Errorf("one more player: %v", err)
	}
	for _, f := range slices.Concat(open, open) { // twice closed is closed once
		_ = f.Close()
	}
	f, err := r.Open(t.Context(), info, "a.txt")
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	big := *info
	big.PieceLength = maxPiece + 1
	if _, err := r.Open(t.Context(), &big, "a.txt"); err == nil || !strings.Contains(err.Error(), "pieces of") {
		t.Errorf("huge pieces: %v", err)
	}
}

// A piece that our own pace holds up for longer than a box may say nothing comes all the same; one that does not come at
// all is not waited for.
func TestOurOwnPaceIsNoSilence(t *testing.T) {
	fleet := identitytest.New(t)
	info, data := testAsset(t)
	h := &home{}
	serving(t, fleet, h, "holder", &store{info: info, data: data})
	r := reading(t, fleet.Box("player", "home"), h)
	r.idle = 2 * time.Second
	r.o.Pay = func(int, <-chan struct{}) error {
		<-time.After(2 * r.idle)
		return nil
	}
	d, err := r.Open(t.Context(), info, "a.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if p, err := d.(*reader).from(t.Context(), "holder", 0); err != nil || !bytes.Equal(p, data[:len(p)]) {
		t.Errorf("a piece that is paced: %d bytes, %v", len(p), err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // connects, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h.boxes[0].Addr = netip.MustParseAddrPort(ln.Addr().String())
	r.client.CloseIdleConnections()
	if _, err := d.(*reader).from(t.Context(), "holder", 0); err == nil {
		t.Error("a silent box gave a piece")
	}
}
