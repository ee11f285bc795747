// Package repo writes the catalog: a TUF repository (specification 1.0.31, consistent snapshots) of static files that any
// web server can hand out, in which the operator signs campaigns and each publisher its own assets.
//
// Roles: root (may be kept offline, with a threshold) names the keys of all top-level roles; targets (may be kept offline)
// delegates assets/<publisher>/* to one role for each publisher, groups/*.json and fleet/withdrawn.json to the role campaigns
// and fleet/revocations.json to the role revocations, and signs fleet/operations.json itself; snapshot and timestamp say what
// belongs together and is current. Only campaigns, revocations, snapshot and timestamp need their keys on the server.
//
// Invariants: what timestamp.json names is complete and durable before timestamp.json changes; a file, once named by a
// published timestamp.json, is never changed; versions only grow; nothing is signed for which a rule of this package is
// broken (paths, quotas, the form of campaigns); a draft that was signed elsewhere passes the same checks.
package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"boxd/internal/durable"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"
)

// Names of the delegated roles that every repository has.
const (
	RoleCampaigns   = "campaigns"
	RoleRevocations = "revocations"
)

// Limits.
const (
	maxMetadataBytes = 16 << 20
	maxPublishers    = 4096
)

// Errors that callers branch on.
var (
	ErrNoKey    = errors.New("the role's keys are not on this machine: make a draft, sign it where they are, and import it")
	ErrStale    = errors.New("the repository has moved on since the draft was made: draft again")
	ErrQuota    = errors.New("the publisher's quota is used up")
	ErrNotFound = errors.New("not in the catalog")
	ErrExists   = errors.New("it exists already")
)

// Expiry says for how long a signature of each role is good. Zero fields take the defaults.
type Expiry struct {
	Root, Targets, Publisher, Campaigns, Revocations, Snapshot, Timestamp time.Duration
}

const day = 24 * time.Hour

func (e Expiry) withDefaults() Expiry {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&e.Root, 800*day)
	def(&e.Targets, 400*day)
	def(&e.Publisher, 400*day)
	def(&e.Campaigns, 30*day)
	def(&e.Revocations, 30*day)
	def(&e.Snapshot, 14*day)
	def(&e.Timestamp, 3*day)
	return e
}

// Options says where a repository is.
type Options struct {
	Dir    string           // the public files: Dir/metadata and Dir/targets
	Keys   string           // directory of private keys, *.pem; they may be taken away
	FS     durable.FS       // nil means the operating system's
	Now    func() time.Time // nil means time.Now
	Expiry Expiry
	// Fence, if set, is asked before anything is written, and again right before timestamp.json is replaced: an error (a lost
	// lease) stops the commit.
	Fence func() error
	// BinAssets is how many assets a publisher's role holds before it is split into hashed bins; 0 means 256.
	BinAssets int
	Log       *slog.Logger
}

// Repo is a repository on disk. Its methods may be called from any goroutine, and from several processes on one machine.
type Repo struct {
	opt Options
	fs  durable.FS
	log *slog.Logger

	mu   sync.Mutex      // held for the length of a transaction; guards made
	made map[string]bool // directories that are there and durable

	subMu   sync.Mutex // guards changed
	changed chan struct{}
}

func newRepo(opt Options) (*Repo, error) {
	if opt.Dir == "" || opt.Keys == "" {
		return nil, errors.New("repository: Dir and Keys are both needed")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.BinAssets == 0 {
		opt.BinAssets = 256
	}
	opt.Expiry = opt.Expiry.withDefaults()
	r := &Repo{opt: opt, fs: opt.FS, log: opt.Log, changed: make(chan struct{}), made: map[string]bool{}}
	if r.fs == nil {
		r.fs = durable.OS()
	}
	return r, nil
}

// Open reads an existing repository. ErrNotFound is wrapped when there is none.
func Open(opt Options) (*Repo, error) {
	r, err := newRepo(opt)
	if err != nil {
		return nil, err
	}
	if _, err := r.fs.Stat(r.metaPath("timestamp.json")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNotFound
		}
		return nil, fmt.Errorf("open repository %s: %w", opt.Dir, err)
	}
	if _, err := r.begin(); err != nil {
		return nil, fmt.Errorf("open repository %s: %w", opt.Dir, err)
	}
	if err := r.settleKeys(); err != nil {
		return nil, fmt.Errorf("open repository %s: %w", opt.Dir, err)
	}
	return r, nil
}

func (r *Repo) metaPath(name string) string { return filepath.Join(r.opt.Dir, "metadata", name) }

func (r *Repo) now() time.Time { return r.opt.Now().UTC().Truncate(time.Second) }

// Version is the version of the published timestamp: the number that fleetd gives boxes as catalog version.
func (r *Repo) Version() (int64, error) {
	tx, err := r.begin()
	if err != nil {
		return 0, err
	}
	return tx.timestamp.Signed.Version, nil
}

// Root returns the newest root.json, which goes into the firmware.
func (r *Repo) Root() ([]byte, error) {
	tx, err := r.begin()
	if err != nil {
		return nil, err
	}
	return tx.rootRaw, nil
}

// Changed returns a channel that is closed when this process next publishes something or, while Run runs, another does.
func (r *Repo) Changed() <-chan struct{} {
	r.subMu.Lock()
	defer r.subMu.Unlock()
	return r.changed
}

func (r *Repo) wake() {
	r.subMu.Lock()
	defer r.subMu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// lock keeps other goroutines and other processes out until the returned function is called.
func (r *Repo) lock() (unlock func(), err error) {
	r.mu.Lock()
	if r.opt.FS != nil {
		return r.mu.Unlock, nil // a file system of a test: there is no other process
	}
	name := filepath.Join(r.opt.Keys, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		r.mu.Unlock()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() {
		_ = f.Close() // gives the lock back
		r.mu.Unlock()
	}, nil
}

// newestRoot finds the root.json with the highest version; the versions have no gaps.
func (r *Repo) newestRoot() (*metadata.Metadata[metadata.RootType], []byte, error) {
	var newest []byte
	for v := int64(1); ; v++ {
		b, err := durable.ReadFile(r.fs, r.metaPath(strconv.FormatInt(v, 10)+".root.json"), maxMetadataBytes)
		if errors.Is(err, fs.ErrNotExist) && newest != nil {
			break
		}
		if err != nil {
			return nil, nil, fmt.Errorf("root version %d: %w", v, err)
		}
		newest = b
	}
	root, err := metadata.Root().FromBytes(newest)
	if err != nil {
		return nil, nil, fmt.Errorf("newest root: %w", err)
	}
	return root, newest, nil
}

func load[T metadata.Roles](r *Repo, name string, as *metadata.Metadata[T]) (*metadata.Metadata[T], error) {
	b, err := durable.ReadFile(r.fs, r.metaPath(name), maxMetadataBytes)
	if err != nil {
		return nil, err
	}
	m, err := as.FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}
