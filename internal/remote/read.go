package remote

import (
	"context"
	"crypto/sha1" //nolint:gosec // BitTorrent's piece hash
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"boxd/internal/asset"
)

// Open opens a file of an asset that other boxes of the home hold, for a player. Close must be called; reads end with
// ctx. It fails with ErrNobody when no box holds it, and with ErrBusy when too many players read from afar.
func (r *Remote) Open(ctx context.Context, info *asset.Info, path string) (io.ReadSeekCloser, error) {
	f, ok := info.File(path)
	if !ok {
		return nil, fmt.Errorf("open %s %q: %w", info.ID.Short(), path, fs.ErrNotExist)
	}
	if info.PieceLength > maxPiece {
		return nil, fmt.Errorf("open %s: pieces of %d bytes, at most %d", info.ID.Short(), info.PieceLength, maxPiece)
	}
	if len(r.holders(info.ID)) == 0 {
		return nil, ErrNobody
	}
	select {
	case r.seats <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	ctx, cancel := context.WithCancel(ctx)
	return &reader{r: r, ctx: ctx, cancel: cancel, info: info, file: f, bad: map[string]bool{}}, nil
}

// reader reads one file piece by piece, one piece ahead. It is used by one goroutine at a time.
type reader struct {
	r      *Remote
	ctx    context.Context //nolint:containedctx // an io.Reader has no other way to be cancelled
	cancel context.CancelFunc
	info   *asset.Info
	file   asset.File
	pos    int64 // in the file

	now  *piece // what is read; nil: nothing yet
	next *piece // what comes after it; nil: not asked for
	once sync.Once

	badMu sync.Mutex
	bad   map[string]bool // boxes that sent wrong bytes; guarded by badMu
}

// piece is one that comes or has come.
type piece struct {
	index  int
	cancel context.CancelFunc
	done   chan struct{} // closed when the two below are set
	data   []byte
	err    error
}

func (p *piece) drop() {
	if p != nil {
		p.cancel()
	}
}

// Read waits for the piece that it needs.
func (d *reader) Read(p []byte) (int, error) {
	if d.pos >= d.file.Length {
		return 0, io.EOF
	}
	at := d.file.Offset + d.pos
	i, _ := d.info.PiecesOf(at, 1)
	data, err := d.load(i)
	if err != nil {
		return 0, err
	}
	off, _ := d.info.PieceSpan(i)
	data = data[at-off:]
	n := copy(p, data[:min(int64(len(data)), d.file.Length-d.pos)])
	d.pos += int64(n)
	d.r.played.Add(int64(n))
	return n, nil
}

// load returns piece i, and has the one after it fetched meanwhile.
func (d *reader) load(i int) ([]byte, error) {
	if d.now == nil || d.now.index != i {
		d.now.drop()
		if d.next == nil || d.next.index != i {
			d.next.drop()
			d.next = d.fetch(i)
		}
		d.now, d.next = d.next, nil
	}
	select {
	case <-d.now.done:
	case <-d.ctx.Done():
		return nil, d.ctx.Err()
	}
	got := d.now
	if got.err != nil {
		d.now = nil // the next Read tries again
		return nil, got.err
	}
	if _, end := d.info.PiecesOf(d.file.Offset, d.file.Length); d.next == nil && i+1 < end {
		d.next = d.fetch(i + 1)
	}
	return got.data, nil
}

// fetch asks for a piece in the background.
func (d *reader) fetch(i int) *piece {
	ctx, cancel := context.WithCancel(d.ctx)
	p := &piece{index: i, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.data, p.err = d.ask(ctx, i)
	}()
	return p
}

// again is how soon a home in which nobody gave a piece is asked once more: where a connection has just ended there is nobody
// for a moment, and a player that has begun waits for that.
const again = 250 * time.Millisecond

// ask asks the boxes that hold the asset until one gives the piece, or all that do are known to send wrong bytes.
func (d *reader) ask(ctx context.Context, i int) ([]byte, error) {
	for until := time.Now().Add(d.r.patience); ; {
		data, err := d.askOnce(ctx, i)
		if err == nil || ctx.Err() != nil || errors.Is(err, errWrongHash) || time.Now().After(until) {
			return data, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(again):
		}
	}
}

// askOnce asks the boxes that hold the asset now, one after the other, in an order that differs from piece to piece.
func (d *reader) askOnce(ctx context.Context, i int) ([]byte, error) {
	boxes := d.r.holders(d.info.ID)
	rand.Shuffle(len(boxes), func(a, b int) { boxes[a], boxes[b] = boxes[b], boxes[a] })
	boxes = slices.DeleteFunc(boxes, d.isBad)
	err := ErrNobody
	for _, box := range boxes {
		data, ferr := d.from(ctx, box, i)
		if ferr == nil || ctx.Err() != nil {
			return data, ferr
		}
		d.r.log.Info("a box of this home did not give a piece", "box", box, "asset", d.info.ID.Short(), "err", ferr)
		err = ferr
	}
	return nil, fmt.Errorf("piece %d of %s: %w", i, d.info.ID.Short(), err)
}

var (
	errWrongHash = errors.New("wrong hash")
	errIdle      = errors.New("nothing came")
)

// from gets a piece from one box and checks it.
func (d *reader) from(ctx context.Context, box string, i int) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(d.r.idle, func() { cancel(errIdle) })
	defer idle.Stop()
	url := fmt.Sprintf("https://%s/%s/%d", box, d.info.ID, i)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := d.r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	_, length := d.info.PieceSpan(i)
	data := make([]byte, length)
	for got := 0; got < len(data); {
		part := data[got:min(got+chunk, len(data))]
		idle.Stop()
		if err := d.r.o.Pay(len(part), ctx.Done()); err != nil {
			return nil, err
		}
		idle.Reset(d.r.idle)
		if _, err := io.ReadFull(resp.Body, part); err != nil {
			return nil, err
		}
		got += len(part)
	}
	if sha1.Sum(data) != d.info.PieceHash(i) { //nolint:gosec // BitTorrent's piece hash
		d.r.wrong.Add(1)
		d.badMu.Lock()
		d.bad[box] = true
		d.badMu.Unlock()
		return nil, errWrongHash
	}
	return data, nil
}

func (d *reader) isBad(box string) bool {
	d.badMu.Lock()
	defer d.badMu.Unlock()
	return d.bad[box]
}

// Seek sets where the next Read begins; it waits for nothing.
func (d *reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += d.pos
	case io.SeekEnd:
		off += d.file.Length
	}
	if off < 0 {
		return 0, fmt.Errorf("seek to %d: %w", off, fs.ErrInvalid)
	}
	d.pos = off
	return off, nil
}

// Close gives the seat back.
func (d *reader) Close() error {
	d.once.Do(func() {
		d.cancel()
		<-d.r.seats
	})
	return nil
}
