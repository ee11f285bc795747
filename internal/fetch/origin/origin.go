// Package origin fetches whole pieces of an asset from the operator's HTTP servers (BEP 19 web seeds) by byte ranges.
//
// Invariants: a piece that is verified is never asked for again. Bytes are believed only after their piece's hash: what a
// server says about itself is checked, counted and never trusted. No request waits for ever, and none is sent before the
// moment that Retry-After or the back-off names. Every byte of a body that was read is counted once.
package origin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
)

// Store is where the pieces go.
type Store interface {
	Info() *asset.Info
	WriteAt(p []byte, off int64) (int, error)
	HashPiece(i int) ([asset.HashSize]byte, error)
	MarkVerified(i int) error
	MarkMissing(i int) error
	Have(i int) bool
}

// Options of a Source.
type Options struct {
	Client  *http.Client   // must not follow redirects by itself to fewer checks than Redirects makes; see Client
	Buckets []*pace.Bucket // every byte passes all of them
	// Taken recognises a store's refusal of bytes that somebody else has brought meanwhile; nil: none.
	Taken   func(error) bool
	OnBytes func(n int)   // told of every byte read, as it comes
	OnPiece func(i int)   // told of every piece that became verified
	Sockets *pace.Sockets // watches the connections; nil: nobody does
	Servers *Servers      // shared by the sources of all assets; nil: this one's own
	Idle    time.Duration // a body that brings nothing for so long is given up; default 15 s
	MinRate int64         // bytes per second over Patience below which a server is given up; default 2 KiB/s
	// Patience is how long a server may be slower than MinRate; default 30 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Errors that say what is wrong with a server. They are wrapped with the address.
var (
	ErrRangeIgnored = errors.New("the server ignores Range")
	ErrWrongRange   = errors.New("the server answered with another range than was asked")
	ErrWrongBytes   = errors.New("the server sent other bytes than were published")
	ErrEncoded      = errors.New("the server compresses what it sends")
	ErrRedirect     = errors.New("the server redirects to nowhere")
	ErrTooSlow      = errors.New("the server is too slow")
	ErrStatus       = errors.New("unexpected status")
	ErrNotNow       = errors.New("the server asked to be left alone for a while")
	ErrNoSource     = errors.New("the asset names no origin")
	// ErrStore is wrapped when the bytes could not be kept; the server is not to blame.
	ErrStore = errors.New("storing failed")
)

// Result of a Fetch.
type Result struct {
	Verified int   // pieces
	Received int64 // bytes of bodies
	Wasted   int64 // of them, those that were not kept
	Err      error
	RetryAt  time.Time // when Err is set: not before then
}

// Source is the origin of one asset. Its methods may be called from any goroutine; one Fetch at a time uses a piece.
type Source struct {
	store Store
	opts  Options
	urls  []string

	mu     sync.Mutex
	hosts  []hostState   // guarded by mu; one for each url
	resume map[int]int64 // guarded by mu: bytes of a piece that are written already
}

type hostState struct {
	until time.Time // no request before
	fails int
	bad   int // pieces with a wrong hash in a row
	odd   int // of them, those that came in two parts, of which the first may have been lost
	err   error
}

// New returns the source of an asset; urls as in the .torrent's url-list.
func New(store Store, urls []string, opts Options) *Source {
	if opts.Idle <= 0 {
		opts.Idle = 15 * time.Second
	}
	if opts.MinRate <= 0 {
		opts.MinRate = 2 << 10
	}
	if opts.Patience <= 0 {
		opts.Patience = 30 * time.Second
	}
	if opts.Taken == nil {
		opts.Taken = func(error) bool { return false }
	}
	if opts.Servers == nil {
		opts.Servers = &Servers{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{
		store: store, opts: opts, urls: urls, hosts: make([]hostState, len(urls)), resume: map[int]int64{},
	}
}

// Fetch brings the pieces [first, end) as far as they are not here, in order, from one server. It stops at the first
// fault; what was verified until then is kept.
func (s *Source) Fetch(ctx context.Context, first, end int) Result {
	var res Result
	for first < end && s.store.Have(first) {
		first++
	}
	for end > first && s.store.Have(end-1) {
		end--
	}
	if first >= end {
		return res
	}
	h, at, err := s.pick(time.Now())
	if err != nil {
		return Result{Err: err, RetryAt: at}
	}
	run := run{s: s, host: h, url: s.urls[h], next: first, end: end, res: &res}
	err = run.do(ctx)
	if (err == nil && !run.odd) || (res.Verified > 0 && !errors.Is(err, ErrWrongBytes)) {
		s.cheer(h)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrStore) {
		res.Err = err
		return res
	}
	res.RetryAt = s.blame(h, err, time.Now())
	res.Err = fmt.Errorf("origin %s: %w", s.urls[h], err)
	return res
}

// pick chooses a server that may be asked now.
func (s *Source) pick(now time.Time) (int, time.Time, error) {
	if len(s.urls) == 0 {
		return 0, time.Time{}, ErrNoSource
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var at time.Time
	var cause error
	for i, h := range s.hosts {
		if until := s.opts.Servers.until(s.urls[i]); until.After(h.until) {
			h.until, h.err = until, errLeave
		}
		if !now.Before(h.until) {
			return i, time.Time{}, nil
		}
		if at.IsZero() || h.until.Before(at) {
			at, cause = h.until, h.err
		}
	}
	return 0, at, fmt.Errorf("%w: %w", ErrNotNow, cause)
}

func (s *Source) cheer(h int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[h] = hostState{}
}

// blame notes a fault and returns when the server may be asked again.
func (s *Source) blame(h int, err error, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.hosts[h]
	st.err = err
	if errors.Is(err, ErrWrongBytes) {
		st.bad++
	}
	st.until = now.Add(backoff(err, st.fails, st.bad))
	st.fails++
	if asked := (*askedError)(nil); errors.As(err, &asked) && asked.busy && asked.host == hostOf(s.urls[h]) {
		s.opts.Servers.leave(s.urls[h], st.until, now)
	}
	return st.until
}

// oddPieces is how many pieces in a row may come out wrong when they were fetched in two parts, before the server is blamed:
// one that always breaks off would else never be found out.
const oddPieces = 2

// odd notes a piece that came in two parts and is wrong, and reports whether the server is to blame.
func (s *Source) odd(h int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[h].odd++
	return s.hosts[h].odd >= oddPieces
}

// RetryAt is when the first server may be asked again; zero when one may be asked now.
func (s *Source) RetryAt(now time.Time) time.Time {
	_, at, _ := s.pick(now)
	return at
}

// resumeAt returns how many bytes of the piece are written already.
func (s *Source) resumeAt(piece int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.resume[piece]
	delete(s.resume, piece)
	return n
}

func (s *Source) keepResume(piece int, n int64) {
	if n <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.resume) > 64 {
		clear(s.resume) // bounded; they are fetched again
	}
	s.resume[piece] = n
}
