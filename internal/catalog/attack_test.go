package catalog_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fleet/repo"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// mirror is an attacker's web server: it serves whatever files it was given.
type mirror struct {
	mu     sync.Mutex
	files  map[string][]byte
	before func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	asked  []string
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.asked = append(m.asked, r.URL.Path)
	b, ok := m.files[r.URL.Path]
	before := m.before
	m.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(b)
}

// take copies the repository as it is now.
func (w *world) take() map[string][]byte {
	w.t.Helper()
	files := map[string][]byte{}
	must(w.t, filepath.WalkDir(w.opt.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(w.opt.Dir, p)
		files["/"+filepath.ToSlash(rel)] = b
		return err
	}))
	return files
}

// mirrored makes boxes of this world read from a mirror.
func (w *world) mirrored() *mirror {
	m := &mirror{files: w.take()}
	srv := httptest.NewServer(m)
	w.t.Cleanup(srv.Close)
	w.server = srv
	return m
}

func (m *mirror) set(files map[string][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = files
}

// newBox is a box that has never been, and has read the given files.
func (w *world) newBox(m *mirror, files map[string][]byte) *catalog.Catalog {
	w.t.Helper()
	w.boxes++
	w.boxDir = fmt.Sprintf("box-%d", w.boxes)
	m.set(files)
	return w.box()
}

// refused refreshes and demands that it fails with a code, that the code is raised and that nothing has moved.
func (w *world) refused(c *catalog.Catalog, code string) error {
	w.t.Helper()
	before := c.Snapshot()
	err := c.Refresh(context.Background())
	if err == nil || catalog.CodeOf(err) != code {
		w.t.Fatalf("refresh: %v; want %s", err, code)
	}
	if c.Snapshot() != before {
		w.t.Fatalf("the snapshot moved: %+v", c.Snapshot())
	}
	if !w.health.Has(code) {
		w.t.Errorf("%s is not raised: %+v", code, w.health.List())
	}
	if after, err := catalog.Open(w.options(w.boxDir)); err != nil || after.Snapshot().Version != before.Version {
		w.t.Errorf("after a restart: %+v, %v; was %d", after.Snapshot(), err, before.Version)
	}
	w.health.Clear(code)
	return err
}

// refuses shows a forgery to a box that has read the true catalog.
func (w *world) refuses(m *mirror, f *forger, code string) {
	w.t.Helper()
	c := w.newBox(m, w.take())
	m.set(f.files)
	w.refused(c, code)
}

// forger has stolen some keys and publishes by hand whatever it likes.
type forger struct {
	w     *world
	files map[string][]byte
	keys  map[string]ed25519.PrivateKey // by role
}

func (w *world) forger(roles ...string) *forger {
	w.t.Helper()
	f := &forger{w: w, files: w.take(), keys: map[string]ed25519.PrivateKey{}}
	for _, role := range roles {
		f.keys[role] = w.key(role)
	}
	return f
}

func (w *world) key(role string) ed25519.PrivateKey {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.opt.Keys, role+".pem"))
	must(w.t, err)
	k, err := repo.ParseKey(b)
	must(w.t, err)
	return k
}

func signWith[T metadata.Roles](t *testing.T, m *metadata.Metadata[T], keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	m.ClearSignatures()
	for _, k := range keys {
		s, err := signature.LoadED25519Signer(k)
		must(t, err)
		_, err = m.Sign(s)
		must(t, err)
	}
	b, err := m.ToBytes(false)
	must(t, err)
	return b
}

func ref(version int64, b []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(b)
	m := metadata.MetaFile(version)
	m.Length, m.Hashes = int64(len(b)), metadata.Hashes{"sha256": sum[:]}
	return m
}

func (f *forger) stamp() *metadata.Metadata[metadata.TimestampType] {
	f.w.t.Helper()
	m, err := metadata.Timestamp().FromBytes(f.files["/metadata/timestamp.json"])
	must(f.w.t, err)
	return m
}

func (f *forger) snap() *metadata.Metadata[metadata.SnapshotType] {
	f.w.t.Helper()
	v := f.stamp().Signed.Meta["snapshot.json"].Version
	m, err := metadata.Snapshot().FromBytes(f.files["/metadata/"+strconv.FormatInt(v, 10)+".snapshot.json"])
	must(f.w.t, err)
	return m
}

func (f *forger) role(name string) *metadata.Metadata[metadata.TargetsType] {
	f.w.t.Helper()
	v := f.snap().Signed.Meta[name+".json"].Version
	m, err := metadata.Targets().FromBytes(f.files[fmt.Sprintf("/metadata/%d.%s.json", v, name)])
	must(f.w.t, err)
	return m
}

// addTarget puts a file under a role's metadata and returns them changed, unsigned.
func (f *forger) addTarget(m *metadata.Metadata[metadata.TargetsType], path string, content []byte) {
	f.w.t.Helper()
	tf, err := metadata.TargetFile().FromBytes(path, content, "sha256")
	must(f.w.t, err)
	m.Signed.Targets[path] = tf
	dir, base := filepath.Split(path)
	f.files["/targets/"+dir+fmt.Sprintf("%x", []byte(tf.Hashes["sha256"]))+"."+base] = content
}

// publish writes a role, signed with the given key, and a snapshot and timestamp (signed with theirs) that lead to it.
func (f *forger) publish(name string, m *metadata.Metadata[metadata.TargetsType], key ed25519.PrivateKey) {
	f.w.t.Helper()
	m.Signed.Version++
	b := signWith(f.w.t, m, key)
	f.files[fmt.Sprintf("/metadata/%d.%s.json", m.Signed.Version, name)] = b
	f.raw(name, ref(m.Signed.Version, b))
}

func (f *forger) raw(name string, r *metadata.MetaFiles) {
	snap := f.snap()
	snap.Signed.Meta[name+".json"] = r
	f.rewrite(snap, f.stamp())
}

func (f *forger) rewrite(snap *metadata.Metadata[metadata.SnapshotType], ts *metadata.Metadata[metadata.TimestampType]) {
	snap.Signed.Version++
	b := signWith(f.w.t, snap, f.keys["snapshot"])
	f.files[fmt.Sprintf("/metadata/%d.snapshot.json", snap.Signed.Version)] = b
	ts.Signed.Version++
	ts.Signed.Meta["snapshot.json"] = ref(snap.Signed.Version, b)
	f.files["/metadata/timestamp.json"] = signWith(f.w.t, ts, f.keys["timestamp"])
}

// Arbitrary software: a mirror without any key changes what it serves.
func TestAttackArbitrarySoftware(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	c := w.box()
	w.put("home", "night2", "film2.mp4")
	good := w.take()
	for name := range good {
		if strings.HasSuffix(name, "timestamp.json") || strings.HasSuffix(name, ".root.json") || m.files[name] != nil {
			continue
		}
		files := w.take()
		files[name] = bytes.Replace(files[name], []byte("1"), []byte("2"), 1)
		if bytes.Equal(files[name], good[name]) {
			t.Fatalf("%s is as it was", name)
		}
		m.set(files)
		w.refused(c, catalog.CodeIncomplete)
	}
	files := w.take()
	files["/metadata/timestamp.json"] = bytes.Replace(good["/metadata/timestamp.json"], []byte(`"version":4`), []byte(`"version":9`), 1)
	m.set(files)
	w.refused(c, catalog.CodeSignature)
	m.set(good)
	must(t, c.Refresh(context.Background()))
	if len(c.Snapshot().Assets) != 2 || len(w.health.List()) != 0 {
		t.Fatalf("after the attack: %+v, %+v", c.Snapshot(), w.health.List())
	}
}

// Rollback: an older, once valid catalog is offered again; also after a restart, and to a box that only ever saw the newer
// timestamp.
func TestAttackRollback(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	old := w.take()
	w.put("home", "night2", "film2.mp4")
	m := w.mirrored()
	c := w.box()
	m.set(old)
	w.refused(c, catalog.CodeRollback)
	w.refused(w.open(), catalog.CodeRollback)

	w.put("home", "night3", "film3.mp4")
	half := w.take()
	delete(half, "/metadata/"+newest(half, "snapshot"))
	m.set(half)
	w.refused(c, catalog.CodeIncomplete)
	for v, files := range map[string]map[string][]byte{"seen": half} {
		_ = v
		files["/metadata/timestamp.json"] = w.mirroredTimestamp(old)
	}
	w.refused(w.open(), catalog.CodeRollback)

	// Whoever has the timestamp key still cannot take the snapshot or a role back.
	f := w.forger("timestamp", "snapshot")
	ts, snap := f.stamp(), f.snap()
	m.set(f.files)
	must(t, c.Refresh(context.Background()))
	ts.Signed.Version++
	oldSnap := "/metadata/" + newest(old, "snapshot")
	ts.Signed.Meta["snapshot.json"] = ref(snap.Signed.Version-1, old[oldSnap])
	files := w.take()
	files["/metadata/timestamp.json"] = signWith(t, ts, f.keys["timestamp"])
	m.set(files)
	w.refused(c, catalog.CodeRollback)
	f = w.forger("timestamp", "snapshot")
	ts, snap = f.stamp(), f.snap()
	ts.Signed.Version += 5
	snap.Signed.Meta["campaigns.json"].Version--
	f.rewrite(snap, ts)
	m.set(f.files)
	w.refused(c, catalog.CodeRollback)
	f = w.forger("timestamp", "snapshot")
	ts, snap = f.stamp(), f.snap()
	ts.Signed.Version += 8
	delete(snap.Signed.Meta, "campaigns.json")
	f.rewrite(snap, ts)
	m.set(f.files)
	w.refused(c, catalog.CodeRollback)
}

func (w *world) mirroredTimestamp(files map[string][]byte) []byte {
	return files["/metadata/timestamp.json"]
}

// newest finds the file of a role with the highest version.
func newest(files map[string][]byte, role string) string {
	for v := 999; v > 0; v-- {
		if name := fmt.Sprintf("%d.%s.json", v, role); files["/metadata/"+name] != nil {
			return name
		}
	}
	return ""
}

// Indefinite freeze: the same catalog is offered for ever. It stops being fresh, and the box says so.
func TestAttackFreeze(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	w.mirrored()
	c := w.box()
	s := c.Snapshot()
	w.now = s.Expires.Add(-time.Minute)
	must(t, c.Refresh(context.Background()))
	if !c.Snapshot().Fresh(w.now) || w.health.Has(catalog.CodeExpired) {
		t.Fatal("not fresh before its time")
	}
	w.now = s.Expires.Add(time.Minute)
	w.refused(c, catalog.CodeExpired)
	if c.Snapshot().Fresh(w.now) {
		t.Fatal("fresh after its time")
	}
	if len(w.open().Snapshot().Assets) != 1 {
		t.Fatal("what was there to play is forgotten")
	}
	w.health.Clear(catalog.CodeExpired)
	if w.open(); !w.health.Has(catalog.CodeExpired) {
		t.Fatal("after a restart nobody says that the catalog expired")
	}
}

// Endless data: no response is read beyond what it may be long.
func TestAttackEndlessData(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	c := w.box()
	w.put("home", "night2", "film2.mp4")
	m.set(w.take())
	for _, part := range []string{"timestamp.json", "2.root.json", ".snapshot.json", ".campaigns.json", "home.json", ".torrent"} {
		sent := 0
		m.before = func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, part) {
				return false
			}
			for chunk := bytes.Repeat([]byte(" "), 64<<10); sent < 64<<20; sent += len(chunk) {
				if _, err := rw.Write(chunk); err != nil {
					return true
				}
			}
			return true
		}
		w.refused(c, catalog.CodeIncomplete)
		if sent >= 32<<20 {
			t.Errorf("%s: %d bytes were taken", part, sent)
		}
	}
}

// Mix and match: files of different times, or of another role or group, are put together.
func TestAttackMixAndMatch(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	w.put("work", "day", "other.mp4")
	m := w.mirrored()
	old := w.take()
	w.put("home", "night2", "film2.mp4")
	files := w.take()
	var homes, works []string
	for name := range files {
		switch {
		case strings.HasSuffix(name, ".home.json"):
			homes = append(homes, name)
		case strings.HasSuffix(name, ".work.json"):
			works = append(works, name)
		}
	}
	for _, name := range homes {
		files[name] = files[works[0]]
	}
	c := w.newBox(m, old)
	m.set(files)
	w.refused(c, catalog.CodeIncomplete)
	for _, role := range []string{"snapshot", "campaigns", "publisher-acme"} {
		files := w.take()
		files["/metadata/"+newest(files, role)] = old["/metadata/"+newest(old, role)]
		c := w.newBox(m, old)
		m.set(files)
		w.refused(c, catalog.CodeIncomplete)
	}
	files = w.take()
	files["/metadata/"+newest(files, "campaigns")] = files["/metadata/"+newest(files, "publisher-acme")]
	c = w.newBox(m, old)
	m.set(files)
	w.refused(c, catalog.CodeIncomplete)
	// Not even who signs campaigns can give a group the file of another.
	f := w.forger("timestamp", "snapshot", "campaigns")
	role := f.role("campaigns")
	f.addTarget(role, "groups/home.json", files[works[0]])
	f.publish("campaigns", role, f.keys["campaigns"])
	m.set(f.files)
	w.refused(c, catalog.CodeInvalid)
}

// Wrong keys: every role signed with a key that is not its own.
func TestAttackWrongKeys(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	_, stranger, err := ed25519.GenerateKey(nil)
	must(t, err)
	for _, key := range []ed25519.PrivateKey{stranger, w.key("publisher-acme"), w.key("revocations")} {
		f := w.forger("timestamp", "snapshot")
		f.publish("campaigns", f.role("campaigns"), key)
		w.refuses(m, f, catalog.CodeSignature)
		f = w.forger("timestamp", "snapshot")
		f.publish("targets", f.role("targets"), key)
		w.refuses(m, f, catalog.CodeSignature)
		f = w.forger("timestamp", "snapshot")
		f.keys["snapshot"] = key
		f.rewrite(f.snap(), f.stamp())
		w.refuses(m, f, catalog.CodeSignature)
		f = w.forger("timestamp", "snapshot")
		f.keys["timestamp"] = key
		f.rewrite(f.snap(), f.stamp())
		w.refuses(m, f, catalog.CodeSignature)
		f = w.forger()
		root, err := metadata.Root().FromBytes(f.files["/metadata/1.root.json"])
		must(t, err)
		root.Signed.Version = 2
		f.files["/metadata/2.root.json"] = signWith(t, root, key)
		w.refuses(m, f, catalog.CodeSignature)
	}
}

// Expired metadata of each role is not accepted anew.
func TestAttackExpiredMetadata(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	past := w.now.Add(-time.Hour)
	for _, role := range []string{"targets", "campaigns", "revocations"} {
		f := w.forger("timestamp", "snapshot")
		r := f.role(role)
		r.Signed.Expires = past
		f.publish(role, r, w.key(role))
		w.refuses(m, f, catalog.CodeExpired)
	}
	f := w.forger("timestamp", "snapshot")
	snap, ts := f.snap(), f.stamp()
	snap.Signed.Expires = past
	f.rewrite(snap, ts)
	w.refuses(m, f, catalog.CodeExpired)
	f = w.forger("timestamp", "snapshot")
	snap, ts = f.snap(), f.stamp()
	ts.Signed.Expires = past
	f.rewrite(snap, ts)
	w.refuses(m, f, catalog.CodeExpired)
}

// Key compromise: whoever has everything that is on the server, but neither targets nor a publisher's key, can put no
// content on a box, whatever it signs.
func TestAttackKeyCompromise(t *testing.T) {
	evil := []byte("evil content")
	w := newWorld(t)
	have := w.put("home", "night", "film.mp4")
	m := w.mirrored()
	c := w.box()
	b := torrent(t, "evil.mp4", evil)
	in, err := asset.ParseTorrent(b)
	must(t, err)
	path := catalog.AssetPath("acme", in.ID)
	campaign := func(path string, id asset.ID) []byte {
		g := catalog.GroupFile{V: 1, Group: "home", Campaigns: []catalog.Campaign{{
			V: 1, ID: "evil", Group: "home", Assets: []catalog.AssetRef{{Path: path, ID: id}},
		}}}
		raw, err := json.Marshal(g)
		must(t, err)
		return raw
	}
	check := func(what string) {
		t.Helper()
		err := c.Refresh(context.Background())
		for id, a := range c.Snapshot().Assets {
			if id != have.ID || a.Info.ID != have.ID {
				t.Fatalf("%s: %s is on the box (%v)", what, a.Name, err)
			}
		}
	}
	all := []string{"timestamp", "snapshot", "campaigns", "revocations"}

	f := w.forger(all...) // the torrent under the campaigns role itself
	role := f.role("campaigns")
	f.addTarget(role, path, b)
	f.addTarget(role, "groups/home.json", campaign(path, in.ID))
	f.publish("campaigns", role, f.keys["campaigns"])
	m.set(f.files)
	check("under the campaigns role")
	if !w.health.Has(catalog.CodeAsset) || len(c.Snapshot().Rejected) != 1 {
		t.Errorf("nobody says that it was refused: %+v", c.Snapshot().Rejected)
	}

	pub := f.role("publisher-acme") // the publisher's role, signed with the campaigns key
	f.addTarget(pub, path, b)
	f.publish("publisher-acme", pub, f.keys["campaigns"])
	m.set(f.files)
	check("under a publisher's role with the wrong key")

	f = w.forger(all...) // a new delegation from the campaigns role
	f.files["/metadata/timestamp.json"] = m.files["/metadata/timestamp.json"]
	role = f.role0(m, "campaigns")
	key, err := metadata.KeyFromPublicKey(f.keys["campaigns"].Public().(ed25519.PublicKey))
	must(t, err)
	id, err := key.ID()
	must(t, err)
	role.Signed.Delegations = &metadata.Delegations{
		Keys:  map[string]*metadata.Key{id: key},
		Roles: []metadata.DelegatedRole{{Name: "mine", KeyIDs: []string{id}, Threshold: 1, Paths: []string{"assets/acme/*"}}},
	}
	for k, v := range m.files {
		f.files[k] = v
	}
	f.publish("campaigns", role, f.keys["campaigns"])
	mine := metadata.Targets(w.now.Add(time.Hour))
	f.addTarget(mine, path, b)
	f.publish("mine", mine, f.keys["campaigns"])
	m.set(f.files)
	check("through a delegation of the campaigns role")

	for p, content := range f.files { // the bytes of what was signed before
		if strings.HasSuffix(p, have.ID.String()+".torrent") {
			_ = content
			f.files[p] = b
		}
	}
	m.set(f.files)
	must(t, os.RemoveAll(filepath.Join(w.dir, w.boxDir, "targets")))
	c = w.open()
	check("other bytes under a signed name")
}

// role0 reads a role from what the mirror serves.
func (f *forger) role0(m *mirror, name string) *metadata.Metadata[metadata.TargetsType] {
	g := &forger{w: f.w, files: m.files, keys: f.keys}
	return g.role(name)
}

// A publisher is believed for its own assets alone; a torrent that is not what its path says is left out.
func TestPublisherStaysInItsPaths(t *testing.T) {
	w := newWorld(t)
	have := w.put("home", "night", "film.mp4")
	evil := w.publisher("evil")
	m := w.mirrored()
	c := w.box()
	must(t, w.repo.Update(func(tx *repo.Tx) error {
		_, err := tx.PutAsset("evil", torrent(t, "harmless.mp4", []byte("x")))
		return err
	}))
	b := torrent(t, "evil.mp4", []byte("evil"))
	in, err := asset.ParseTorrent(b)
	must(t, err)
	f := w.forger("timestamp", "snapshot")
	role := f.role("publisher-evil")
	f.addTarget(role, have.Path, b) // another's path
	f.publish("publisher-evil", role, evil)
	m.set(f.files)
	must(t, c.Refresh(context.Background()))
	if a := c.Snapshot().Assets[have.ID]; a == nil || a.Publisher != "acme" || a.Info.ID != have.ID {
		t.Fatalf("another publisher replaced it: %+v", a)
	}
	// Its own path, but the torrent is another one than the path says.
	wrong := catalog.AssetPath("evil", asset.ID{7})
	f = w.forger("timestamp", "snapshot", "campaigns")
	role = f.role("publisher-evil")
	role.Signed.Version += 3
	f.addTarget(role, wrong, b)
	camp := f.role("campaigns")
	g, err := json.Marshal(catalog.GroupFile{V: 1, Group: "home", Campaigns: []catalog.Campaign{{
		V: 1, ID: "c", Group: "home", Assets: []catalog.AssetRef{{Path: wrong, ID: asset.ID{7}}, have},
	}}})
	must(t, err)
	f.addTarget(camp, "groups/home.json", g)
	f.publish("publisher-evil", role, evil)
	f.publish("campaigns", camp, f.keys["campaigns"])
	ts := f.stamp()
	ts.Signed.Version += 9
	snap := f.snap()
	snap.Signed.Version += 9
	f.rewrite(snap, ts)
	m.set(f.files)
	must(t, c.Refresh(context.Background()))
	s := c.Snapshot()
	if len(s.Assets) != 1 || s.Assets[in.ID] != nil || len(s.Rejected) != 1 || !strings.Contains(s.Rejected[0].Reason, "infohash") {
		t.Fatalf("assets %v, rejected %+v", s.Assets, s.Rejected)
	}
	if !w.health.Has(catalog.CodeAsset) {
		t.Error("nobody says so")
	}
}

// A signed but malformed file must not stop boxes: go-tuf alone would panic on these.
func TestMalformedSignedMetadata(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	m := w.mirrored()
	c := w.box()
	for _, raw := range []string{
		`{"signed":{"_type":"targets","targets":{"groups/home.json":null}},"signatures":[]}`,
		`{"signed":{"_type":"targets","targets":null,"delegations":{"roles":[{"name":"x"}],"keys":null}},"signatures":null}`,
		`{"signed":null}`, `[]`, `{"signed":{"_type":"root"}}`, ``,
	} {
		f := w.forger("timestamp", "snapshot")
		f.files["/metadata/77.campaigns.json"] = []byte(raw)
		f.raw("campaigns", ref(77, []byte(raw)))
		m.set(f.files)
		if err := c.Refresh(context.Background()); err == nil {
			t.Errorf("%q was accepted", raw)
		}
	}
	f := w.forger("timestamp", "snapshot")
	ts := f.stamp()
	ts.Signed.Version += 50
	ts.Signed.Meta = nil
	f.files["/metadata/timestamp.json"] = signWith(t, ts, f.keys["timestamp"])
	m.set(f.files)
	if err := c.Refresh(context.Background()); err == nil {
		t.Error("a timestamp without a snapshot was accepted")
	}
	if len(c.Snapshot().Assets) != 1 {
		t.Error("the last good catalog is gone")
	}
}
