// Package ceremony takes the keys that a running fleet does not need away from the fleet manager's disk: it says which key
// is where and what a thief could do with it (Survey), seals the offline keys into a bundle under a passphrase that is
// shared among custodians (Seal), and opens that bundle again when it is needed (Unseal).
//
// Invariants: Seal removes a key only after it has read it back from the bundle with the shares, and after the custodians
// have those; a power cut at any moment leaves every key in at least one of the two places. The bundle is plain encrypted
// PKCS#8, so that openssl and the passphrase are enough to open it without this program. No passphrase is written.
package ceremony

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"boxd/internal/durable"
	"boxd/internal/fleet/keyfile"
	"boxd/internal/identity/pki"
)

// Place is where a key belongs.
type Place string

// The places.
const (
	Offline Place = "offline" // in a safe; needed a few times in a fleet's life
	Author  Place = "author"  // with the person who publishes or operates; may be on the server in a small fleet
	Server  Place = "server"  // on the fleet manager, which signs with it all the time
)

// Key is one private key of a fleet.
type Key struct {
	File      string `json:"file"` // slash-separated, from the fleet's directory
	Place     Place  `json:"place"`
	Loss      string `json:"loss"` // what a thief could do with it, and what not
	Encrypted bool   `json:"encrypted"`
}

// kinds is the layout of a fleet's directory; the first pattern that matches counts.
var kinds = []struct {
	pattern string
	place   Place
	loss    string
}{
	{"ca/root.key", Offline, "name any box or server of the fleet; only new firmware with a new root ends it"},
	{"keys/root-*.pem", Offline, "with as many of them as the threshold: put any content on every box"},
	{"keys/targets.pem", Offline, "name publishers and operations keys of his own, until the root keys replace it"},
	{"keys/publisher-*.pem", Author, "publish as this publisher, but not send it anywhere"},
	{"keys/operations.pem", Author, "send commands and desired state, but no content of his own"},
	{"keys/campaigns.pem", Server, "send what was published to any group, at any time, but no content of his own"},
	{"keys/revocations.pem", Server, "shut boxes out of the fleet, or let revoked ones back in"},
	{"keys/snapshot.pem", Server, "hide new content from boxes, with the timestamp key, until it expires"},
	{"keys/timestamp.pem", Server, "keep boxes from seeing anything new until it expires"},
	{"keys/targets.next.pem", Offline, "what keys/targets.pem can, once the draft that names it is imported"},
	{"keys/*.next.pem", Server, "what the key that it replaces can, once the draft that names it is imported"},
	{"ca/boxes.pem", Server, "name boxes, until this intermediate is revoked in the catalog"},
	{"ca/servers.pem", Server, "pose as the fleet's servers, until this intermediate is revoked in the catalog"},
}

// Survey lists the private keys that are in a fleet's directory.
func Survey(dir string) ([]Key, error) {
	var keys []Key
	for _, sub := range []string{"ca", "keys"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("survey of keys: %w", err)
		}
		for _, e := range entries {
			name := path.Join(sub, e.Name())
			for _, kind := range kinds {
				if ok, err := path.Match(kind.pattern, name); err != nil || !ok {
					continue
				}
				data, err := durable.ReadFile(durable.OS(), filepath.Join(dir, sub, e.Name()), maxFile)
				if err != nil {
					return nil, fmt.Errorf("survey of keys: %w", err)
				}
				if encrypted, isKey := keyfile.Encrypted(data); isKey {
					keys = append(keys, Key{File: name, Place: kind.place, Loss: kind.loss, Encrypted: encrypted})
				}
				break
			}
		}
	}
	return keys, nil
}

const (
	maxFile      = 64 << 10
	manifestFile = "bundle.json"
	readmeFile   = "README.txt"
)

// Options say what is sealed and for whom.
type Options struct {
	Dir    string   // the fleet's directory
	Out    string   // the bundle: a directory that does not exist yet or is empty, on another medium
	Files  []string // as Survey names them; empty: every key whose place is Offline
	Shares int      // custodians; zero: 1
	Needed int      // of them; zero: a majority
	Keep   bool     // leave the keys where they are as well
	// HandOut gives the shares to the custodians. No key is removed before it has returned without an error; when it fails the
	// bundle, which nobody could open, is removed instead. Only a seal that keeps the keys may do without.
	HandOut func(Bundle) error
	Now     time.Time
}

// Bundle is what Seal made.
type Bundle struct {
	Made   time.Time         `json:"made"`
	Needed int               `json:"needed"`
	Of     int               `json:"of"`
	Keys   map[string]string `json:"keys"` // file → SHA-256 of the public key
	Shares []string          `json:"-"`    // one for each custodian; nobody can tell them again
}

// Seal encrypts keys into a bundle and, unless they are to be kept, removes them from the fleet's directory.
func Seal(o Options) (Bundle, error) {
	b, err := o.seal()
	if err != nil {
		return Bundle{}, fmt.Errorf("seal keys: %w", err)
	}
	return b, nil
}

func (o *Options) fill() error {
	if o.Shares == 0 {
		o.Shares = 1
	}
	if o.Needed == 0 {
		o.Needed = o.Shares/2 + 1
	}
	if o.HandOut == nil && !o.Keep {
		return errors.New("nobody takes the shares")
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	keys, err := Survey(o.Dir)
	if err != nil {
		return err
	}
	here := map[string]Key{}
	for _, k := range keys {
		here[k.File] = k
	}
	if len(o.Files) == 0 {
		for _, k := range keys {
			if k.Place == Offline {
				o.Files = append(o.Files, k.File)
			}
		}
	}
	if len(o.Files) == 0 {
		return errors.New("there is no offline key here")
	}
	for _, f := range o.Files {
		k, ok := here[f]
		switch {
		case !ok:
			return fmt.Errorf("there is no key %q here", f)
		case k.Encrypted:
			return fmt.Errorf("%s is encrypted already: take it away as it is", f)
		case k.Place == Server && !o.Keep:
			return fmt.Errorf("the fleet manager needs %s all the time", f)
		}
	}
	entries, err := os.ReadDir(o.Out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", o.Out)
	}
	return nil
}

func (o *Options) seal() (Bundle, error) {
	if err := o.fill(); err != nil {
		return Bundle{}, err
	}
	passphrase, err := keyfile.NewPassphrase()
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{Made: o.Now.UTC().Truncate(time.Second), Needed: o.Needed, Of: o.Shares, Keys: map[string]string{}}
	if b.Shares, err = keyfile.Split(passphrase, o.Shares, o.Needed); err != nil {
		return Bundle{}, err
	}
	for _, f := range o.Files {
		key, err := readKey(filepath.Join(o.Dir, f), nil)
		if err != nil {
			return Bundle{}, err
		}
		if b.Keys[f], err = fingerprint(key); err != nil {
			return Bundle{}, err
		}
		data, err := keyfile.Encode(key, passphrase)
		if err != nil {
			return Bundle{}, err
		}
		if err := write(filepath.Join(o.Out, f), data); err != nil {
			return Bundle{}, err
		}
	}
	manifest, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return Bundle{}, err
	}
	if err := write(filepath.Join(o.Out, readmeFile), []byte(readme(b))); err != nil {
		return Bundle{}, err
	}
	if err := write(filepath.Join(o.Out, manifestFile), append(manifest, '\n')); err != nil {
		return Bundle{}, err
	}
	return b, o.finish(b)
}

// finish reads the bundle back with each custodian's share in use at least once, then removes the originals.
func (o *Options) finish(b Bundle) error {
	for i := range b.Shares {
		some := append(slices.Clone(b.Shares[i:]), b.Shares[:i]...)[:b.Needed]
		if i > 0 { // the files were read with the first set; the others must only give the same passphrase
			if _, err := keyfile.Join(some); err != nil {
				return err
			}
			continue
		}
		if _, err := open(o.Out, some); err != nil {
			return fmt.Errorf("the bundle does not read back, nothing was removed: %w", err)
		}
	}
	if o.HandOut != nil {
		if err := o.HandOut(b); err != nil {
			return errors.Join(fmt.Errorf("the shares were not handed out, no key was removed: %w", err), o.discard())
		}
	}
	if o.Keep {
		return nil
	}
	for _, f := range o.Files {
		if err := durable.RemoveFile(durable.OS(), filepath.Join(o.Dir, f)); err != nil {
			return err
		}
	}
	return nil
}

// discard removes what was written to the bundle, so that the next attempt finds it empty.
func (o *Options) discard() error {
	var faults []error
	for _, f := range append([]string{manifestFile, readmeFile}, o.Files...) {
		faults = append(faults, durable.RemoveFile(durable.OS(), filepath.Join(o.Out, f)))
	}
	for _, f := range o.Files {
		_ = os.Remove(filepath.Dir(filepath.Join(o.Out, f))) // if it is empty
	}
	return errors.Join(faults...)
}

// Unseal writes the keys of a bundle, readable, under a directory, which should be in memory and on a machine without a
// network. It returns their files.
func Unseal(bundle, dir string, shares []string) ([]string, error) {
	keys, err := open(bundle, shares)
	if err != nil {
		return nil, fmt.Errorf("open bundle %s: %w", bundle, err)
	}
	var files []string
	for f, key := range keys {
		data, err := keyfile.Encode(key, nil)
		if err != nil {
			return nil, err
		}
		name := filepath.Join(dir, f)
		if _, err := os.Stat(name); err == nil {
			return nil, fmt.Errorf("open bundle %s: %s is there already", bundle, name)
		}
		if err := write(name, data); err != nil {
			return nil, fmt.Errorf("open bundle %s: %w", bundle, err)
		}
		files = append(files, name)
	}
	slices.Sort(files)
	return files, nil
}

// open decrypts the keys of a bundle and compares them with its list.
func open(bundle string, shares []string) (map[string]crypto.Signer, error) {
	passphrase, err := keyfile.Join(shares)
	if err != nil {
		return nil, err
	}
	data, err := durable.ReadFile(durable.OS(), filepath.Join(bundle, manifestFile), maxFile)
	if err != nil {
		return nil, err
	}
	var b Bundle
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	keys := map[string]crypto.Signer{}
	for f, want := range b.Keys {
		if !filepath.IsLocal(f) {
			return nil, fmt.Errorf("%s names %q", manifestFile, f)
		}
		key, err := readKey(filepath.Join(bundle, f), passphrase)
		if err != nil {
			return nil, err
		}
		if have, err := fingerprint(key); err != nil || have != want {
			return nil, errors.Join(err, fmt.Errorf("%s is another key than the bundle's list says", f))
		}
		keys[f] = key
	}
	return keys, nil
}

func readKey(name string, passphrase []byte) (crypto.Signer, error) {
	data, err := durable.ReadFile(durable.OS(), name, maxFile)
	if err != nil {
		return nil, err
	}
	key, err := keyfile.Decode(data, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

func fingerprint(key crypto.Signer) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", err
	}
	return pki.KeyHash(der), nil
}

// write makes the directories, durably, and the file.
func write(name string, data []byte) error {
	fsys := durable.OS()
	dir := filepath.Dir(name)
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The directories above may be new as well: the bundle's own and its parent.
	for range 2 {
		if dir = filepath.Dir(dir); dir == filepath.Dir(dir) {
			break
		}
		if err := fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	return durable.WriteFile(fsys, name, data, 0o600)
}

func readme(b Bundle) string {
	names := make([]string, 0, len(b.Keys))
	for f := range b.Keys {
		names = append(names, f)
	}
	slices.Sort(names)
	return fmt.Sprintf(`Private keys of a fleet of boxes, sealed %s.

  %s

Each file is an encrypted PKCS#8 key. The passphrase was split: any %d of %d shares give it back.
With fleetd:        fleetd keys open --bundle . --out DIR      (asks for the shares)
With openssl only:  openssl pkey -in FILE -passin pass:PASSPHRASE
Open it on a machine without a network, into memory, and switch that machine off afterwards.
`, b.Made.Format(time.RFC3339), strings.Join(names, "\n  "), b.Needed, b.Of)
}
