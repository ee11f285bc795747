// Package firmware shows bundles that have arrived to the updater of the box (RAUC, SWUpdate or the image's own): a
// `ready` asset whose publisher signed it as firmware appears under a stable path, with the SHA-256 of the whole file
// beside it.
//
//	<Dir>/<name>          a link to the verified bytes
//	<Dir>/<name>.sha256   as sha256sum writes it; made last and removed first: where it is, the bundle is whole
//
// Invariants: nothing is shown before the whole file was read back and had the SHA-256 that the signed catalog states, and
// a catalog that states none shows nothing. What leaves the catalog or the cache is taken away, the checksum first. The
// package starts nothing: what an update is, and when, is the updater's business.
package firmware

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/courtesy"
	"boxd/internal/durable"
	"boxd/internal/health"
)

// ContentType is what a publisher calls a bundle.
const ContentType = "application/vnd.boxd.firmware"

// The health codes that this package raises.
const (
	CodeMismatch = "firmware-mismatch"  // a bundle is not what its publisher signed
	CodeNotShown = "firmware-not-shown" // the directory cannot be written
)

// settle is how long a change must rest before it is looked at: a cache that is being filled changes all the time.
const settle = time.Second

// Catalog is what the package reads of the catalog.
type Catalog interface {
	Snapshot() *catalog.Snapshot
	Changed() <-chan struct{}
}

// Options of New; all but Health and Log are required.
type Options struct {
	Cache   *cache.Cache
	Catalog Catalog
	Dir     string
	Health  *health.Set
	Log     *slog.Logger
}

// Firmware is the service.
type Firmware struct {
	o     Options
	mu    sync.Mutex          // guards the fields below, and the directory
	shown map[asset.ID]shown  // what the directory holds
	right map[asset.ID]shown  // what was read and has its sum, whether or not it could be shown
	bad   map[asset.ID]string // what was read, and the signed sum that it does not have
}

type shown struct{ name, target, sum string }

// New checks the options and starts nothing.
func New(o Options) (*Firmware, error) {
	if o.Cache == nil || o.Catalog == nil || o.Dir == "" {
		return nil, errors.New("firmware: Cache, Catalog and Dir are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Firmware{o: o, shown: map[asset.ID]shown{}, right: map[asset.ID]shown{}, bad: map[asset.ID]string{}}
	o.Cache.OnEvict(f.hide)
	return f, nil
}

// Run keeps the directory as the catalog and the cache say until ctx ends.
func (f *Firmware) Run(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(f.o.Dir, 0o755), f.clean()); err != nil {
		f.raise(CodeNotShown, err)
	}
	for {
		catalogChanged, cacheChanged := f.o.Catalog.Changed(), f.o.Cache.Changed()
		f.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-catalogChanged:
		case <-cacheChanged:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
	}
}

// clean takes away what an earlier run showed: what still holds is shown again at once.
func (f *Firmware) clean() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, err := os.ReadDir(f.o.Dir)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { // checksums first
		return strings.Compare(filepath.Ext(b.Name()), filepath.Ext(a.Name()))
	})
	for _, e := range entries {
		link := e.Type()&fs.ModeSymlink != 0
		if !link && filepath.Ext(e.Name()) != sumSuffix {
			continue // not ours
		}
		if link && pointsToABlob(filepath.Join(f.o.Dir, e.Name())) {
			continue // the same bundle, most likely: an updater may be reading it
		}
		if err := os.Remove(filepath.Join(f.o.Dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func pointsToABlob(link string) bool {
	_, err := os.Stat(link)
	return err == nil
}

// look compares what should be shown with what is.
func (f *Firmware) look(ctx context.Context) {
	f.forgetBad()
	want := f.wanted()
	f.mu.Lock()
	old := maps.Clone(f.shown)
	maps.DeleteFunc(f.right, func(id asset.ID, _ shown) bool { return want[id] == nil }) // it is read again when it is back
	f.mu.Unlock()
	for id, s := range old {
		a, ok := f.o.Cache.Asset(id)
		if ok {
			target, whole := a.Path()
			ok = whole && target == s.target // a piece may have been lost since
		}
		if want[id] == nil || !ok {
			f.hide(id)
		}
	}
	for id, a := range want {
		if err := f.show(ctx, id, a); err != nil && ctx.Err() == nil {
			f.raise(CodeNotShown, err)
		}
	}
}

// isBad says that an asset was read and does not have the sum that is signed for it.
func (f *Firmware) isBad(id asset.ID, want string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum, bad := f.bad[id]
	return bad && sum == want
}

// forgetBad drops what is not here or not in the catalog any more, or was signed anew since: the same file published again
// is the same asset. The warning goes with the last one.
func (f *Firmware) forgetBad() {
	signed := f.o.Catalog.Snapshot().Assets
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.bad) == 0 {
		return
	}
	for id, sum := range f.bad {
		a := signed[id]
		if _, held := f.o.Cache.Asset(id); !held || a == nil || !bundle(a) || a.SHA256[a.Info.Files[0].Path] != sum {
			delete(f.bad, id)
		}
	}
	if len(f.bad) == 0 {
		f.o.Health.Clear(CodeMismatch)
	}
}

// wanted picks what is to be shown: of the bundles that are here and right, the newest under each name.
func (f *Firmware) wanted() map[asset.ID]*catalog.Asset {
	best := map[string]*catalog.Asset{}
	for id, a := range f.o.Catalog.Snapshot().Assets {
		if !bundle(a) {
			continue
		}
		held, ok := f.o.Cache.Asset(id)
		if ok {
			_, ok = held.Path()
		}
		name := a.Info.Files[0].Path
		bad := f.isBad(id, a.SHA256[name])
		if !ok || bad || best[name] != nil && !newer(a, best[name]) {
			continue
		}
		best[name] = a
	}
	want := make(map[asset.ID]*catalog.Asset, len(best))
	for _, a := range best {
		want[a.Info.ID] = a
	}
	return want
}

// newer orders bundles of one name by version, numbers in it as numbers; the infohash decides between equal ones.
func newer(a, b *catalog.Asset) bool {
	x, y := a.Version, b.Version
	for x != "" && y != "" {
		p, q := digits(x), digits(y)
		if p == 0 || q == 0 {
			if x[0] != y[0] {
				return x[0] > y[0]
			}
			x, y = x[1:], y[1:]
			continue
		}
		m, n := strings.TrimLeft(x[:p], "0"), strings.TrimLeft(y[:q], "0")
		if c := cmp.Or(cmp.Compare(len(m), len(n)), strings.Compare(m, n)); c != 0 {
			return c > 0
		}
		x, y = x[p:], y[q:]
	}
	if len(x) != len(y) {
		return len(x) > len(y)
	}
	return a.Info.ID.String() > b.Info.ID.String()
}

func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

// bundle says whether an asset is one file that its publisher calls firmware, with a name that is safe as a path.
func bundle(a *catalog.Asset) bool {
	if a.Info == nil || len(a.Info.Files) != 1 {
		return false
	}
	name := a.Info.Files[0].Path
	return a.Types[name] == ContentType && name == filepath.Base(name) && !strings.HasPrefix(name, ".") &&
		!strings.HasSuffix(name, sumSuffix)
}

const sumSuffix = ".sha256"

func (f *Firmware) show(ctx context.Context, id asset.ID, signed *catalog.Asset) error {
	a, ok := f.o.Cache.Asset(id)
	if !ok {
		return nil
	}
	target, ok := a.Path()
	name := signed.Info.Files[0].Path
	want := signed.SHA256[name]
	f.mu.Lock()
	same, right := f.shown[id] == shown{name, target, want}, f.right[id] == shown{name, target, want}
	f.mu.Unlock()
	if !ok || same || f.isBad(id, want) {
		return nil
	}
	have := want
	if !right {
		var err error
		if have, err = sum(ctx, a, name); err != nil {
			return fmt.Errorf("read bundle %s: %w", name, err)
		}
	}
	if have != want {
		f.mu.Lock()
		f.bad[id] = want
		f.mu.Unlock()
		f.hide(id) // as it was, if it was right by an earlier catalog
		f.o.Health.Raise(health.Warning{
			Code: CodeMismatch, Severity: health.Critical,
			Text:   fmt.Sprintf("The firmware bundle %s has arrived whole, but is not the file whose SHA-256 was signed.", name),
			Action: "Publish the bundle again; find out how it changed between signing and publishing.",
		})
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now, ok := a.Path(); !ok || now != target {
		return nil // evicted or damaged meanwhile; the change brings us back
	}
	f.right[id] = shown{name, target, have}
	if err := f.link(name, target, have); err != nil {
		return err
	}
	f.shown[id] = shown{name, target, have}
	f.o.Health.Clear(CodeNotShown)
	f.o.Log.Info("firmware bundle is ready", "name", name, "version", signed.Version, "sha256", have)
	return nil
}

// sum reads a bundle with what the disk has to spare.
func sum(ctx context.Context, a *cache.Asset, name string) (string, error) {
	r, err := a.OpenFile(ctx, name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	read := make(chan error, 1)
	go func() {
		courtesy.IdleIO()
		_, err := io.Copy(h, r)
		read <- err
	}()
	if err := <-read; err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// link makes the link and then the checksum; f.mu must be held. A bundle of the same name is replaced.
func (f *Firmware) link(name, target, sum string) error {
	path := filepath.Join(f.o.Dir, name)
	if have, err := os.Readlink(path); err != nil || have != target {
		if err := remove(path + sumSuffix); err != nil {
			return err
		}
		temp := filepath.Join(f.o.Dir, ".link")
		if err := errors.Join(remove(temp), os.Symlink(target, temp), os.Rename(temp, path)); err != nil {
			return fmt.Errorf("show bundle %s: %w", name, err)
		}
	}
	return durable.WriteFile(durable.OS(), path+sumSuffix, []byte(sum+"  "+name+"\n"), 0o644)
}

// hide takes a bundle away. The cache calls it before the bytes go.
func (f *Firmware) hide(id asset.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.shown[id]
	if !ok {
		return
	}
	delete(f.shown, id)
	path := filepath.Join(f.o.Dir, s.name)
	if have, err := os.Readlink(path); err != nil || have != s.target {
		return // another bundle has the name now
	}
	if err := errors.Join(remove(path+sumSuffix), remove(path)); err != nil {
		f.o.Log.Error("firmware bundle could not be hidden", "name", s.name, "error", err)
	}
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f *Firmware) raise(code string, err error) {
	f.o.Health.Raise(health.Warning{
		Code: code, Severity: health.Warn, Text: fmt.Sprintf("A firmware bundle cannot be shown to the updater: %v.", err),
		Action: "Look at the disk that holds the state directory: is it full or read-only?",
	})
}
