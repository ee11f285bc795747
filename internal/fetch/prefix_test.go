package fetch_test

import (
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
)

const (
	prefixPiece = 16 << 10 // what day.publish cuts
	prefixBytes = 5*prefixPiece - 100
	wholePieces = 64
)

// prefixed publishes two assets of which a campaign wants the beginning first.
func prefixed(d *day) (a, b asset.ID) {
	a, b = d.publish("a film", wholePieces*prefixPiece), d.publish("b film", wholePieces*prefixPiece)
	d.campaign("night", catalog.Campaign{}, a, b)
	for i := range d.camps[0].Assets {
		d.camps[0].Assets[i].PrefixBytes = prefixBytes
	}
	return a, b
}

func (d *day) kept(id asset.ID) *memAsset {
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	return d.cache.assets[id]
}

func TestPrefixesComeBeforeWholes(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, b := prefixed(d)
		d.start(fetch.Limits{})
		seen := 0
		for !d.kept(a).Complete() || !d.kept(b).Complete() {
			d.wait(100 * time.Millisecond)
			for x, y := range map[asset.ID]asset.ID{a: b, b: a} {
				k := d.kept(x)
				if k == nil || k.HaveCount() == 0 || k.HaveCount() > 5 {
					continue
				}
				if seen++; k.HaveCount() < 5 && k.Reserved() != 5*prefixPiece {
					t.Fatalf("%d bytes are reserved for a prefix of %d", k.Reserved(), prefixBytes)
				}
				if other := d.kept(y); k.HaveCount() < 4 && other != nil && other.HaveCount() > 7 {
					t.Fatalf("%d pieces of one came before the prefix of the other", other.HaveCount())
				}
			}
			if d.asset(a).State == fetch.Failed || d.asset(b).State == fetch.Failed {
				t.Fatalf("failed: %+v", d.Status().Assets)
			}
		}
		if seen == 0 {
			t.Error("nothing was looked at")
		}
	})
}

func TestWithoutSpaceForTheRestThePrefixStays(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, b := prefixed(d)
		c := d.publish("c film", 20*prefixPiece)
		d.campaign("more", catalog.Campaign{Priority: -1}, c)
		d.cache.room = 30 * prefixPiece // two prefixes and the small one
		d.start(fetch.Limits{MaxActive: 1})
		d.wait(5 * time.Minute)
		for _, id := range []asset.ID{a, b} {
			s := d.asset(id)
			if s.State != fetch.Fetching || s.Code != "prefix-only" || s.Verified != 5*prefixPiece {
				t.Errorf("%s: %s, %s, %d bytes: %s", s.Name, s.State, s.Code, s.Verified, s.Why)
			}
		}
		d.why(a, "the cache has none for the rest")
		if s := d.asset(c); s.State != fetch.Ready {
			t.Errorf("what cannot grow kept another from coming: %+v", s)
		}
		if n := d.origin.sent.Load(); n != 30*prefixPiece {
			t.Errorf("the origin sent %d bytes for %d that have space", n, 30*prefixPiece)
		}
		creates := d.cache.created()
		d.wait(10 * time.Minute)
		if n := d.cache.created() - creates; n < 10 || n > 60 {
			t.Errorf("the cache was asked for the rest %d times in 10 minutes", n)
		}
		d.cache.mu.Lock()
		d.cache.room = 1 << 30
		d.cache.mu.Unlock()
		d.wait(5 * time.Minute)
		if sa, sb := d.asset(a), d.asset(b); sa.State != fetch.Ready || sb.State != fetch.Ready || sa.Code == "prefix-only" {
			t.Errorf("with space again: %+v, %+v", sa, sb)
		}
	})
}

// A player that goes past the prefix has the rest reserved at once, though other prefixes have not come yet.
func TestPlaybackGoesPastThePrefix(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, _ := prefixed(d)
		d.start(fetch.Limits{})
		for d.kept(a) == nil || d.kept(a).HaveCount() == 0 {
			d.wait(100 * time.Millisecond)
		}
		d.kept(a).play(40, 42)
		d.wait(15 * time.Second)
		if k := d.kept(a); !k.Have(40) || !k.Have(41) || k.Reserved() != wholePieces*prefixPiece {
			t.Errorf("the player still waits: %d of %d bytes reserved, %d pieces here", k.Reserved(), wholePieces*prefixPiece, k.HaveCount())
		}
	})
}

// With no space for what the player waits for nothing fails, and nothing is asked for that could not be kept.
func TestPlaybackPastThePrefixWithoutSpace(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, _ := prefixed(d)
		d.cache.room = 12 * prefixPiece
		d.start(fetch.Limits{})
		for d.kept(a) == nil || d.kept(a).HaveCount() == 0 {
			d.wait(100 * time.Millisecond)
		}
		d.kept(a).play(40, 42)
		d.wait(3 * time.Minute)
		if s := d.asset(a); s.State != fetch.Fetching || s.Code != "prefix-only" {
			t.Errorf("%+v", s)
		}
		for _, p := range d.swarm.wanted(a) {
			if p >= 5 {
				t.Errorf("piece %d is asked from peers, and there is no space for it", p)
			}
		}
		// A request that gave way to the player's may have brought part of a piece that is asked for again.
		if n := d.origin.sent.Load(); n > 11*prefixPiece {
			t.Errorf("the origin sent %d bytes, %d have space", n, 10*prefixPiece)
		}
	})
}

// Space that the cache takes back while a request is under way is no failure of the disk.
func TestSpaceThatIsTakenBackIsNoFailure(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, _ := prefixed(d)
		d.start(fetch.Limits{})
		for d.kept(a) == nil || d.kept(a).HaveCount() < 8 {
			d.wait(100 * time.Millisecond)
		}
		k := d.kept(a)
		d.cache.mu.Lock()
		d.cache.room = 0
		k.reserved.Store(5 * prefixPiece)
		d.cache.mu.Unlock()
		k.mu.Lock()
		clear(k.have[5:])
		k.wakeLocked()
		k.mu.Unlock()
		d.wait(time.Minute)
		if s := d.asset(a); s.State == fetch.Failed || s.Verified != 5*prefixPiece || s.Code != "prefix-only" {
			t.Errorf("%+v", s)
		}
		if w := d.health.List(); len(w) != 0 {
			t.Errorf("health: %+v", w)
		}
	})
}

// A beginning without space for the rest that the cache takes away is asked for like anything else that is not here.
func TestAPrefixIsEvicted(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, _ := prefixed(d)
		d.cache.room = 10 * prefixPiece
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		if s := d.asset(a); s.Code != "prefix-only" {
			t.Fatalf("not at its beginning: %+v", s)
		}
		d.cache.evict(a)
		d.cache.mu.Lock()
		d.cache.room = 0
		d.cache.mu.Unlock()
		d.wait(time.Minute)
		if s := d.asset(a); s.State != fetch.Rejected || s.Verified != 0 {
			t.Errorf("evicted: %+v", s)
		}
		d.cache.mu.Lock()
		d.cache.room = 1 << 30
		d.cache.mu.Unlock()
		d.wait(5 * time.Minute)
		if s := d.asset(a); s.State != fetch.Ready {
			t.Errorf("with space again: %+v", s)
		}
	})
}

// What the owner took from the cache between the notice of an eviction and the eviction is fetched again all the same.
func TestAnEvictionIsFoundOutLate(t *testing.T) {
	aDay(t, "2026-06-05 12:00", func(t *testing.T, d *day) {
		a, _ := prefixed(d)
		d.start(fetch.Limits{})
		d.wait(5 * time.Minute)
		if s := d.asset(a); s.State != fetch.Ready {
			t.Fatalf("not here: %+v", s)
		}
		d.cache.onEvict(a)
		d.wait(time.Second) // it is listed still, and adopted
		was := d.kept(a)
		d.cache.lose(a)
		d.wait(5 * time.Minute)
		if s := d.asset(a); s.State != fetch.Ready || d.kept(a) == nil || d.kept(a) == was {
			t.Errorf("not fetched again: %+v", s)
		}
	})
}
