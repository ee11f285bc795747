package tracker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"

	"github.com/anacrolix/torrent/bencode"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func testTracker(opt Options) (*Tracker, *clock) {
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	opt.Now = c.now
	if opt.Box == nil {
		opt.Box = func(r *http.Request) (string, bool) { n := r.Header.Get("X-Box"); return n, n != "" }
	}
	if opt.Addr == nil {
		opt.Addr = func(r *http.Request) (netip.Addr, bool) {
			a, err := netip.ParseAddr(r.Header.Get("X-Addr"))
			return a, err == nil
		}
	}
	return New(opt), c
}

var film = asset.ID{1, 2, 3, 0xff, '+', ' ', '&', '='}

func get(t *testing.T, h http.Handler, box, addr, query string) (map[string]any, int) {
	t.Helper()
	q := "info_hash=" + url.QueryEscape(string(film[:])) + "&peer_id=-BX0001-abcdefghijkl&port=6880&" + query
	req := httptest.NewRequest(http.MethodGet, "/announce?"+q, nil)
	req.URL.RawQuery = q
	req.Header.Set("X-Box", box)
	req.Header.Set("X-Addr", addr)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	var m map[string]any
	if rec.Code == http.StatusOK {
		if err := bencode.Unmarshal(rec.Body.Bytes(), &m); err != nil {
			t.Fatalf("answer %q: %v", rec.Body, err)
		}
	}
	return m, rec.Code
}

func TestAnnounceGivesPeersCompact(t *testing.T) {
	tr, _ := testTracker(Options{})
	m, _ := get(t, tr, "box-a", "203.0.113.7", "left=10&event=started&ip=9.9.9.9")
	if m["peers"] != "" || m["incomplete"] != int64(1) || m["share index"] != int64(0) || m["share of"] != int64(1) {
		t.Fatalf("first: %v", m)
	}
	get(t, tr, "box-6", "2001:db8::1", "left=10")
	m, _ = get(t, tr, "box-b", "198.51.100.9", "left=0")
	if want := string([]byte{203, 0, 113, 7, 0x1a, 0xe0}); m["peers"] != want {
		t.Fatalf("peers %q, want %q: the connection's address, not ip=", m["peers"], want)
	}
	if p6, _ := m["peers6"].(string); len(p6) != 18 || p6[17] != 0xe0 {
		t.Fatalf("peers6 %q", m["peers6"])
	}
	if _, has := m["share index"]; has || m["complete"] != int64(1) {
		t.Fatalf("a complete box has no share: %v", m)
	}
	m, _ = get(t, tr, "box-a", "203.0.113.7", "left=10&compact=0")
	list, _ := m["peers"].([]any)
	if len(list) != 2 {
		t.Fatalf("peers %v", m["peers"])
	}
	for _, p := range list {
		if d := p.(map[string]any); d["port"] != int64(6880) || d["ip"] == "203.0.113.7" {
			t.Fatalf("peer %v", d)
		}
	}
	m, _ = get(t, tr, "box-b", "198.51.100.9", "left=0&event=stopped")
	if m["complete"] != int64(0) {
		t.Fatalf("after stopped: %v", m)
	}
}

// Clients differ in how they write a space and a plus sign in the infohash.
func TestInfohashEncodings(t *testing.T) {
	for _, h := range []string{
		url.QueryEscape(string(film[:])),
		strings.ReplaceAll(url.QueryEscape(string(film[:])), "+", "%20"), "%01%02%03%ff%2b%20%26%3d" + strings.Repeat("%00", 12),
	} {
		q, err := parseQuery("info_hash=" + h + "&peer_id=aaaaaaaaaaaaaaaaaaaa&port=1")
		if err != nil {
			t.Fatal(err)
		}
		if a, err := q.announce(); err != nil || a.ID != film {
			t.Errorf("%s: %s, %v", h, a.ID, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	other := asset.ID{9}
	tr, _ := testTracker(Options{
		Known:   func(id asset.ID) bool { return id == film },
		Allowed: func(box string, _ asset.ID) bool { return box != "box-x" },
	})
	if _, code := get(t, tr, "", "203.0.113.7", "left=1"); code != http.StatusForbidden {
		t.Fatalf("without identity: %d", code)
	}
	if m, _ := get(t, tr, "box-x", "203.0.113.7", "left=1"); m["failure reason"] == nil || m["peers"] != nil {
		t.Fatalf("a box that is not targeted: %v", m)
	}
	if _, err := tr.Announce(Announce{ID: other, Box: "box-a"}); err == nil {
		t.Fatal("an unknown infohash was accepted")
	}
	for _, q := range []string{"port=0", "left=-1", "left=1&event=nonsense", "numwant=x", "left=%zz"} {
		if m, _ := get(t, tr, "box-a", "203.0.113.7", q); m["failure reason"] == nil {
			t.Errorf("%s: %v", q, m)
		}
	}
	if s := tr.Stats(); s.Swarms != 0 || s.Refused != 8 {
		t.Fatalf("refusals left a trace: %+v", s)
	}
}

func TestSharesAreDistinctAndStable(t *testing.T) {
	tr, c := testTracker(Options{})
	ann := func(i int, complete, stopped bool) Answer {
		a, err := tr.Announce(Announce{
			ID: film, Box: fmt.Sprintf("box-%d", i), Complete: complete, Stopped: stopped, Want: 50,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 6880),
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	shares := map[int]int{}
	for i := range 100 {
		shares[i] = ann(i, false, false).ShareIndex
	}
	seen := map[int]bool{}
	for i := range 100 {
		a := ann(i, false, false)
		if a.ShareIndex != shares[i] || a.ShareOf != 100 || seen[a.ShareIndex] || a.ShareIndex >= a.ShareOf {
			t.Fatalf("box %d: share %d of %d, was %d", i, a.ShareIndex, a.ShareOf, shares[i])
		}
		seen[a.ShareIndex] = true
	}
	if a := ann(40, true, false); a.ShareIndex != -1 {
		t.Fatalf("complete: share %d", a.ShareIndex)
	}
	ann(99, false, true)
	if a := ann(100, false, false); a.ShareIndex != shares[40] || a.ShareOf != 99 {
		t.Fatalf("a new box takes the free share: %d of %d", a.ShareIndex, a.ShareOf)
	}
	c.t = c.t.Add(100 * time.Second)
	for i := range 50 {
		ann(i, i == 40, false)
	}
	c.t = c.t.Add(100 * time.Second)
	tr.Expire()
	if complete, incomplete := tr.Swarm(film); complete != 1 || incomplete != 49 {
		t.Fatalf("after expiry %d and %d", complete, incomplete)
	}
	if a := ann(0, false, false); a.ShareIndex != 0 || a.ShareOf != 50 {
		t.Fatalf("after expiry: share %d of %d", a.ShareIndex, a.ShareOf)
	}
	c.t = c.t.Add(time.Hour)
	tr.Expire()
	if s := tr.Stats(); s.Swarms != 0 {
		t.Fatalf("empty swarms stay: %+v", s)
	}
}

func TestNearestFirst(t *testing.T) {
	tr, _ := testTracker(Options{Region: func(a netip.Addr) string {
		if a.As4()[0] == 10 {
			return "north"
		}
		return ""
	}})
	id := 0
	add := func(a, b, c, d byte) string {
		id++
		name := fmt.Sprintf("box-%d", id)
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{a, b, c, d}), uint16(id))
		if _, err := tr.Announce(Announce{ID: film, Box: name, Addr: addr, PeerID: name}); err != nil {
			t.Fatal(err)
		}
		return name
	}
	kind := map[string]int{}
	for i := range 200 {
		kind[add(11, byte(i), 1, 1)] = 3
		if i < 100 {
			kind[add(10, byte(i+1), 1, 1)] = 2
		}
	}
	for i := range 5 {
		kind[add(10, 0, 0, byte(2+i))] = 1
	}
	kind[add(10, 0, 0, 1)] = 0
	kind[add(10, 0, 0, 1)] = 0
	a, err := tr.Announce(Announce{
		ID: film, Box: "me", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), 9), Want: 500,
	})
	if err != nil || len(a.Peers) != MaxPeers {
		t.Fatalf("%d peers, %v", len(a.Peers), err)
	}
	count, last := [4]int{}, 0
	for i, p := range a.Peers {
		k := kind[p.PeerID]
		count[k]++
		if i < MaxPeers-MaxPeers/4 {
			if k < last {
				t.Fatalf("peer %d is of kind %d after %d", i, k, last)
			}
			last = k
		}
	}
	if count[0] != 2 || count[1] != 5 || count[2] < 31 || count[3] == 0 {
		t.Fatalf("same address, prefix, region, rest: %v", count)
	}
}

func TestIntervalGrowsWithSwarm(t *testing.T) {
	tr, _ := testTracker(Options{})
	for _, c := range []struct {
		n    int
		want time.Duration
	}{{1, time.Minute}, {3000, time.Minute}, {30_000, 10 * time.Minute}, {1_000_000, 40 * time.Minute}} {
		if got := tr.interval(c.n); got != c.want {
			t.Errorf("%d boxes: %s, want %s", c.n, got, c.want)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("info_hash=%01%02aaaaaaaaaaaaaaaaaa&peer_id=aaaaaaaaaaaaaaaaaaaa&port=1&left=0&compact=1&numwant=-1&event=completed")
	f.Add("info_hash=a&info_hash=b")
	f.Add("%zz=1&&=&a")
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw)
		if err != nil {
			return
		}
		a, err := q.announce()
		if err == nil && (q.port == 0 || len(a.PeerID) != 20 || a.Want < 0) {
			t.Fatalf("accepted %+v, port %d", a, q.port)
		}
	})
}

func BenchmarkAnnounce100k(b *testing.B) {
	tr, _ := testTracker(Options{Region: func(a netip.Addr) string { return string(rune('a' + a.As4()[1]%16)) }})
	const n = 100_000
	at := func(i int) Announce {
		return Announce{
			ID: film, Box: fmt.Sprintf("box-%d", i), PeerID: "-BX0001-abcdefghijkl", Want: MaxPeers,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 6880),
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		if _, err := tr.Announce(at(i)); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ans, err := tr.Announce(at(i % n))
		if err != nil || len(ans.Peers) != MaxPeers {
			b.Fatal(len(ans.Peers), err)
		}
		encode(ans, true, true)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "bytes/box")
}
