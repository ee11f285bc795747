package catalog_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/durable"
	"boxd/internal/fleet/repo"

	"pgregory.net/rapid"
)

// fleetModel is what an operator did, in the simplest form.
type fleetModel struct {
	refs      []catalog.AssetRef            // published and not removed
	campaigns map[string][]catalog.AssetRef // group/id → assets
	withdrawn []asset.ID
}

func (m *fleetModel) wanted(group string) (ids []asset.ID) {
	for key, refs := range m.campaigns {
		if strings.HasPrefix(key, group+"/") {
			for _, r := range refs {
				if slices.Contains(m.refs, r) && !slices.Contains(ids, r.ID) {
					ids = append(ids, r.ID)
				}
			}
		}
	}
	return ids
}

func (m *fleetModel) count(group string) (n int) {
	for key := range m.campaigns {
		if strings.HasPrefix(key, group+"/") {
			n++
		}
	}
	return n
}

// Whatever an operator does in whatever order, a box that refreshes now and then has what was last published.
func TestBoxFollowsOperator(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // each is a fleet's life: 100 take a minute
		must(t, f.Value.Set("8"))
		defer func() { must(t, f.Value.Set(f.DefValue)) }()
	}
	rapid.Check(t, func(rt *rapid.T) {
		disk := durable.NewMem(0)
		now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		opt := repo.Options{Dir: "/f/tuf", Keys: "/f/keys", FS: disk, Now: func() time.Time { return now }, BinAssets: 4}
		r, err := repo.Init(opt, repo.InitOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		do := func(fn func(tx *repo.Tx) error) {
			rt.Helper()
			if err := r.Update(fn); err != nil {
				rt.Fatal(err)
			}
		}
		for _, name := range []string{"acme", "beta"} {
			key, err := repo.GenerateKey(disk, opt.Keys, "publisher-"+name)
			if err != nil {
				rt.Fatal(err)
			}
			do(func(tx *repo.Tx) error { return tx.AddPublisher(name, key.Public().(ed25519.PublicKey), 0) })
		}
		root, err := r.Root()
		if err != nil {
			rt.Fatal(err)
		}
		client := &http.Client{Transport: &handlerTransport{handler: r.Handler()}}
		boxDisk, c := durable.NewMem(0), (*catalog.Catalog)(nil)
		open := func() {
			c, err = catalog.Open(catalog.Options{
				Dir: "/c", FS: boxDisk, Root: root, URL: "http://fleet", Client: client,
				Groups: func() []string { return []string{"home"} }, Now: func() (time.Time, bool) { return now, true },
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
		open()
		m := &fleetModel{campaigns: map[string][]catalog.AssetRef{}}
		n := 0
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				n++
				pub := rapid.SampledFrom([]string{"acme", "beta"}).Draw(rt, "publisher")
				do(func(tx *repo.Tx) error {
					ref, err := tx.PutAsset(pub, torrent(t, fmt.Sprintf("f%d", n), []byte(fmt.Sprint(n))))
					m.refs = append(m.refs, ref)
					return err
				})
			},
			"campaign": func(rt *rapid.T) {
				var refs []catalog.AssetRef
				for _, ref := range m.refs {
					if !slices.Contains(m.withdrawn, ref.ID) && rapid.Bool().Draw(rt, "with") {
						refs = append(refs, ref)
					}
				}
				if len(refs) == 0 {
					rt.Skip("nothing to schedule")
				}
				group := rapid.SampledFrom([]string{"home", "work"}).Draw(rt, "group")
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id")
				do(func(tx *repo.Tx) error { return tx.PutCampaign(catalog.Campaign{ID: id, Group: group, Assets: refs}) })
				m.campaigns[group+"/"+id] = refs
			},
			"end": func(rt *rapid.T) {
				for key := range m.campaigns {
					group, id, _ := strings.Cut(key, "/")
					do(func(tx *repo.Tx) error { return tx.RemoveCampaign(group, id) })
					delete(m.campaigns, key)
					return
				}
			},
			"withdraw": func(rt *rapid.T) {
				if len(m.refs) == 0 {
					rt.Skip("nothing to withdraw")
				}
				ref := rapid.SampledFrom(m.refs).Draw(rt, "asset")
				do(func(tx *repo.Tx) error { return tx.Withdraw(ref.ID) })
				if !slices.Contains(m.withdrawn, ref.ID) {
					m.withdrawn = append(m.withdrawn, ref.ID)
				}
				for key, refs := range m.campaigns {
					refs = slices.DeleteFunc(slices.Clone(refs), func(r catalog.AssetRef) bool { return r.ID == ref.ID })
					m.campaigns[key] = refs
					if len(refs) == 0 {
						delete(m.campaigns, key)
					}
				}
			},
			"readmit": func(rt *rapid.T) {
				do(func(tx *repo.Tx) error { return tx.Readmit(m.withdrawn...) })
				m.withdrawn = nil
			},
			"remove": func(rt *rapid.T) {
				if len(m.refs) == 0 {
					rt.Skip("nothing to remove")
				}
				ref := rapid.SampledFrom(m.refs).Draw(rt, "asset")
				do(func(tx *repo.Tx) error { return tx.RemoveAsset(ref.Path) })
				m.refs = slices.DeleteFunc(m.refs, func(r catalog.AssetRef) bool { return r == ref })
			},
			"time passes": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "hours")) * time.Hour)
				if _, err := r.Renew(); err != nil {
					rt.Fatal(err)
				}
				if _, err := r.Collect(0); err != nil {
					rt.Fatal(err)
				}
			},
			"new root":    func(rt *rapid.T) { check(rt, r.RotateRoot(repo.RootChange{})) },
			"box restart": func(rt *rapid.T) { open() },
			"refresh": func(rt *rapid.T) {
				if err := c.Refresh(context.Background()); err != nil {
					rt.Fatal(err)
				}
				s := c.Snapshot()
				want := m.wanted("home")
				if len(s.Assets) != len(want) || len(s.Campaigns) != m.count("home") || !s.Fresh(now) {
					rt.Fatalf("assets %v, want %v; %d campaigns, want %d", s.Assets, want, len(s.Campaigns), m.count("home"))
				}
				for _, id := range want {
					if s.Assets[id] == nil || s.Assets[id].Info.ID != id {
						rt.Fatalf("asset %s is missing", id)
					}
				}
				if got := slices.Clone(s.Withdrawn); !slices.Equal(got, m.withdrawn) {
					rt.Fatalf("withdrawn %v, want %v", got, m.withdrawn)
				}
				v, err := r.Version()
				if err != nil || v != s.Version {
					rt.Fatalf("version %d, published %d, %v", s.Version, v, err)
				}
			},
		})
	})
}

func check(rt *rapid.T, err error) {
	rt.Helper()
	if err != nil {
		rt.Fatal(err)
	}
}

// Boxes that refresh while the operator publishes never see an error nor half a change; two processes that publish at the
// same time lose nothing.
func TestRefreshWhilePublishing(t *testing.T) {
	w := newWorld(t)
	w.opt.FS = nil // the lock between processes belongs to the operating system's files
	var err error
	w.repo, err = repo.Open(w.opt)
	must(t, err)
	second, err := repo.Open(w.opt)
	must(t, err)
	const changes = 12
	var wg sync.WaitGroup
	publishing := make(chan struct{})
	for i, r := range []*repo.Repo{w.repo, second} {
		wg.Go(func() {
			for k := range changes {
				err := r.Update(func(tx *repo.Tx) error {
					name := fmt.Sprintf("f-%d-%d", i, k)
					ref, err := tx.PutAsset("acme", torrent(t, name, []byte(name)))
					if err != nil {
						return err
					}
					return tx.PutCampaign(catalog.Campaign{ID: name, Group: "home", Assets: []catalog.AssetRef{ref}})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); close(publishing) }()
	c := w.open()
	refreshes := 0
	for done := false; !done; refreshes++ {
		select {
		case <-publishing:
			done = true
		default:
		}
		must(t, c.Refresh(context.Background()))
		if s := c.Snapshot(); len(s.Campaigns) != len(s.Assets) {
			t.Fatalf("half a change: %d campaigns, %d assets", len(s.Campaigns), len(s.Assets))
		}
	}
	if s := c.Snapshot(); len(s.Assets) != 2*changes {
		t.Fatalf("%d of %d assets after %d refreshes", len(s.Assets), 2*changes, refreshes)
	}
}

// Slow retrieval: a server that sends a byte now and then does not hold a refresh for ever.
func TestAttackSlowRetrieval(t *testing.T) {
	w := newWorld(t)
	w.put("home", "night", "film.mp4")
	handler := w.repo.Handler()
	synctest.Test(t, func(t *testing.T) {
		opt := w.options("box-slow")
		opt.Client = &http.Client{Transport: trickle{handler}}
		c, err := catalog.Open(opt)
		must(t, err)
		start := time.Now()
		err = c.Refresh(t.Context())
		if catalog.CodeOf(err) != catalog.CodeUnreachable || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// trickle sends a byte in ten seconds.
type trickle struct{ handler http.Handler }

func (s trickle) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	s.handler.ServeHTTP(rec, r)
	resp := rec.Result()
	resp.Body = &trickleBody{ctx: r.Context(), body: resp.Body}
	return resp, nil
}

type trickleBody struct {
	ctx  context.Context
	body io.ReadCloser
}

func (b *trickleBody) Read(p []byte) (int, error) {
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-time.After(10 * time.Second):
		return b.body.Read(p[:1])
	}
}

func (b *trickleBody) Close() error { return b.body.Close() }
