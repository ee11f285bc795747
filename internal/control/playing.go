package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/fetch"
)

// homePatience is how long a player waits for another box of the home to give or carry what this box may not fetch.
const homePatience = 10 * time.Second

// errNoRoom is the answer where neither this box nor another one of the home has it.
var errNoRoom = &NotNowError{Code: "no-space", Text: "The cache has no room for it, and no other box of the home plays it to this one."}

// playing reads a file from the cache, and what the cache has no room for from another box of the home. It is used by
// one goroutine at a time.
type playing struct {
	*cache.Reader
	box  *Box
	held *cache.Asset
	file asset.File
	afar func() (io.ReadSeekCloser, error) // nil: nothing is played from other boxes
	pos  int64
	// patience is homePatience, or what a test wants.
	patience time.Duration

	far io.ReadSeekCloser // open once it was needed
}

// here says that the byte at the position is.
func (p *playing) here() bool {
	if p.pos >= p.file.Length {
		return true
	}
	i, _ := p.held.Info().PiecesOf(p.file.Offset+p.pos, 1)
	return p.held.Have(i)
}

// begin waits until it is known whether the bytes from off on come.
func (p *playing) begin(ctx context.Context, off int64) error {
	if _, err := p.Seek(off, io.SeekStart); err != nil || p.here() {
		return err
	}
	if p.file.Offset+off >= p.held.Reserved() {
		err := p.held.Grow(p.held.Info().Length)
		if errors.Is(err, cache.ErrNoSpace) && !p.turn(err) {
			return errNoRoom
		}
		if err != nil {
			return nil //nolint:nilerr // it comes from another box, or reading will say what is wrong with the disk
		}
	}
	if anyOf(p.held, p.file) {
		return nil
	}
	return p.hope(ctx)
}

// hope waits for a box of the home to give something of the file, or to carry it, when nothing else may.
func (p *playing) hope(ctx context.Context) error {
	b, id := p.box, p.held.Info().ID
	p.Ask()
	for end := time.After(cmp.Or(p.patience, homePatience)); ; {
		var changed <-chan struct{}
		if b.o.Fetch != nil {
			changed = b.o.Fetch.Changed()
		}
		got := p.held.Changed()
		look, why := b.outlook(id)
		switch {
		case look == fetch.Comes, anyOf(p.held, p.file):
			return nil
		case look == fetch.Stays:
			return why
		}
		select {
		case <-changed:
		case <-got:
		case <-end:
			if why == nil {
				why = &NotNowError{Code: CodeUnavailable, Text: "Whether it comes is not known yet."}
			}
			return why
		case <-ctx.Done():
			return nil
		}
	}
}

// turn goes on from another box, when the cache has no room.
func (p *playing) turn(full error) bool {
	if p.far == nil && p.afar != nil {
		far, err := p.afar()
		if err != nil {
			return false
		}
		p.far = far
		p.box.log.Info("a player goes on from another box of the home", "asset", p.held.Info().ID.Short(), "why", full)
	}
	if p.far == nil {
		return false
	}
	_, err := p.far.Seek(p.pos, io.SeekStart)
	_, end := p.Reader.Seek(0, io.SeekEnd) // nothing is asked for any more that has no room
	return err == nil && end == nil
}

// elsewhere says that the position is read from another box.
func (p *playing) elsewhere() bool { return p.far != nil && !p.here() }

// Seek sets where the next Read begins.
func (p *playing) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekCurrent {
		off, whence = off+p.pos, io.SeekStart
	}
	at, err := p.Reader.Seek(off, whence)
	if err != nil {
		return 0, err
	}
	p.pos = at
	if p.elsewhere() && !p.turn(cache.ErrNoSpace) {
		return 0, fmt.Errorf("seek to %d in another box's %s", at, p.held.Info().ID.Short())
	}
	return at, nil
}

// Read waits for the first byte.
func (p *playing) Read(b []byte) (n int, err error) {
	err = p.do(
		func() (int64, error) { n, err = p.Reader.Read(b); return int64(n), err },
		func() (int64, error) { n, err = p.far.Read(b); return int64(n), err })
	return n, err
}

// send is Content.Send.
func (p *playing) send(w io.Writer, n int64) (sent int64, err error) {
	err = p.do(
		func() (k int64, err error) { k, err = p.SendN(w, n); sent += k; return k, err },
		func() (k int64, err error) { k, err = sendFrom(p.far, w, n-sent); sent += k; return k, err })
	return sent, err
}

// do does it with the cache, and goes on with another box where the cache has no room.
func (p *playing) do(near, far func() (int64, error)) error {
	if !p.elsewhere() {
		if p.far != nil { // it was left behind
			if _, err := p.Reader.Seek(p.pos, io.SeekStart); err != nil {
				return err
			}
		}
		if err := p.count(near()); !errors.Is(err, cache.ErrNoSpace) || !p.turn(err) {
			return err
		}
	}
	return p.count(far())
}

func (p *playing) count(n int64, err error) error {
	p.pos += n
	return err
}

// Close lets go of both.
func (p *playing) Close() error {
	err := p.Reader.Close()
	if p.far != nil {
		err = errors.Join(err, p.far.Close())
	}
	return err
}
