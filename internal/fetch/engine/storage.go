package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"

	"boxd/internal/asset"
)

// Store is where the bytes of one asset are. What it says of a piece is the truth.
type Store interface {
	Info() *asset.Info
	Torrent() ([]byte, error)
	WriteAt(p []byte, off int64) (int, error)
	ReadVerifiedAt(p []byte, off int64) (int, error)
	HashPiece(i int) ([asset.HashSize]byte, error)
	MarkVerified(i int) error
	MarkMissing(i int) error
	Have(i int) bool
}

var (
	errStoreClosed = errors.New("the torrent was dropped")
	errHoled       = errors.New("the store refused blocks of the piece")
)

// refuseStorage is the client's default: every torrent brings its own.
type refuseStorage struct{}

// OpenTorrent always fails.
func (refuseStorage) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{}, errors.New("no storage for this torrent")
}

// disk puts a Store behind the library's interface. It latches the first failure, because the library goes on after one.
type disk struct {
	store  Store
	failed func(error)
	taken  func(error) bool // see Options.Taken

	mu     sync.RWMutex // held for reading by every use of store, so that Close waits for them
	closed bool
	spoilt atomic.Int64 // bytes of pieces whose hash was wrong
	badMu  sync.Mutex
	bad    error        // guarded by badMu
	holed  map[int]bool // guarded by badMu: pieces of which the store refused blocks, so that a wrong hash blames nobody
}

// OpenTorrent returns the storage of the one torrent it was made for.
func (d *disk) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{
		Piece: func(p metainfo.Piece) storage.PieceImpl { return diskPiece{d, p.Index()} },
		Close: d.close,
	}, nil
}

func (d *disk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}

func (d *disk) fail(err error) {
	d.badMu.Lock()
	first := d.bad == nil
	if first {
		d.bad = err
	}
	d.badMu.Unlock()
	if first && d.failed != nil {
		d.failed(err)
	}
}

func (d *disk) failure() error {
	d.badMu.Lock()
	defer d.badMu.Unlock()
	return d.bad
}

// refused notes that a block of a piece was not written.
func (d *disk) refused(piece int) {
	d.badMu.Lock()
	defer d.badMu.Unlock()
	if d.holed == nil {
		d.holed = map[int]bool{}
	}
	d.holed[piece] = true
}

// takeHole reports whether blocks of a piece were refused since the last call, and it is not here in spite of that.
func (d *disk) takeHole(piece int) bool {
	d.badMu.Lock()
	holed := d.holed[piece]
	delete(d.holed, piece)
	d.badMu.Unlock()
	return holed && !d.store.Have(piece)
}

// use runs f while the torrent is loaded and sound.
func (d *disk) use(f func() error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return errStoreClosed
	}
	if err := d.failure(); err != nil {
		return err
	}
	return f()
}

type diskPiece struct {
	d *disk
	i int
}

func (p diskPiece) offset() int64 {
	off, _ := p.d.store.Info().PieceSpan(p.i)
	return off
}

// ReadAt gives verified bytes only: what peers get.
func (p diskPiece) ReadAt(b []byte, off int64) (n int, err error) {
	err = p.d.use(func() (err error) {
		n, err = p.d.store.ReadVerifiedAt(b, p.offset()+off)
		return err
	})
	return n, err
}

// WriteAt stores bytes that nobody has checked yet.
func (p diskPiece) WriteAt(b []byte, off int64) (n int, err error) {
	err = p.d.use(func() (err error) {
		n, err = p.d.store.WriteAt(b, p.offset()+off)
		switch {
		case err == nil:
		case p.d.store.Have(p.i):
			n, err = len(b), nil // it came from another source meanwhile
		case p.d.taken(err):
			p.d.refused(p.i) // perhaps it is being judged, perhaps played: this block is not there
			n, err = len(b), nil
		}
		return err
	})
	if err != nil && !errors.Is(err, errStoreClosed) {
		p.d.fail(err)
	}
	return n, err
}

// SelfHash fails for a piece with refused blocks: for the library that is the storage's fault, and it asks for the
// piece again; a wrong hash would have it ban the box that sent the blocks. Otherwise SelfHash hashes what is there:
// the running hash if the blocks came in order.
func (p diskPiece) SelfHash() (sum metainfo.Hash, err error) {
	err = p.d.use(func() error {
		if p.d.takeHole(p.i) {
			return errHoled
		}
		h, err := p.d.store.HashPiece(p.i)
		sum = h
		return err
	})
	if err != nil && !errors.Is(err, errStoreClosed) && !errors.Is(err, errHoled) {
		p.d.fail(err)
	}
	return sum, err
}

// MarkComplete tells the store that the piece has the right hash. The library believes the piece whatever this returns.
func (p diskPiece) MarkComplete() error {
	err := p.d.use(func() error {
		if p.d.store.Have(p.i) {
			return nil
		}
		return p.d.store.MarkVerified(p.i)
	})
	if err != nil && !errors.Is(err, errStoreClosed) {
		p.d.fail(err)
	}
	return err
}

// MarkNotComplete forgets the bytes of a piece whose hash was wrong.
func (p diskPiece) MarkNotComplete() error {
	return p.d.use(func() error {
		if p.d.store.Have(p.i) {
			return nil // what was verified stays so: only the scrub takes it back
		}
		_, n := p.d.store.Info().PieceSpan(p.i)
		p.d.spoilt.Add(n)
		return p.d.store.MarkMissing(p.i)
	})
}

// Completion is what the store says.
func (p diskPiece) Completion() storage.Completion {
	return storage.Completion{Ok: true, Complete: p.d.store.Have(p.i)}
}
