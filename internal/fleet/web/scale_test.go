package web_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// pageLimit is how long any page of the dashboard may take, whatever the size of the fleet.
const pageLimit = 200 * time.Millisecond

// asked is what one address answered: how long it took, and how much it was.
type asked struct {
	took []time.Duration
	size int
}

func (a asked) median() time.Duration { return slices.Sorted(slices.Values(a.took))[len(a.took)/2] }
func (a asked) worst() time.Duration  { return slices.Max(a.took) }

// TestPagesDoNotGrowWithTheFleet asks over real HTTP what the dashboard's pages ask, of a small fleet and of a larger
// one: the answers must be as long. With BOXD_BOXES=100000 (make bench-dashboard) it also holds the clock against them.
func TestPagesDoNotGrowWithTheFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a fleet, some seconds")
	}
	boxes, rounds, part := 8000, 3, 2
	big, _ := strconv.Atoi(os.Getenv("BOXD_BOXES"))
	if big > 0 {
		boxes, rounds, part = big, 15, 10
	}
	small := askAll(t, boxes/part, rounds)
	large := askAll(t, boxes, rounds)
	for name, l := range large {
		s := small[name]
		if l.size > s.size+s.size/10+200 {
			t.Errorf("%s: %d bytes with %d boxes, %d with %d", name, s.size, boxes/part, l.size, boxes)
		}
		if big > 0 && l.worst() > pageLimit {
			t.Errorf("%s took up to %v", name, l.worst())
		}
		if big > 0 {
			t.Logf("RESULT %-28s %6.1f ms median, %6.1f ms worst, %5.1f kB; with 1/%d of the boxes %5.1f ms, %5.1f kB", name,
				ms(l.median()), ms(l.worst()), float64(l.size)/1000, part, ms(s.median()), float64(s.size)/1000)
		}
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func askAll(t *testing.T, boxes, rounds int) map[string]asked {
	t.Helper()
	f := startFleet(t)
	film := f.publish("Tears of Light", "4K", 700_000)
	f.fill(boxes, film)
	camp := f.campaign(map[string]any{"name": "Friday premiere", "group": "g1", "deadline": time.Now().Add(8 * time.Hour)}, film)
	f.began(camp, 6*time.Hour)
	paths := map[string]string{
		"overview": "/data/overview", "offload, a day": "/data/offload?hours=24", "offload, 30 days": "/data/offload?hours=720",
		"campaigns": "/data/campaigns?limit=50", "a campaign": "/data/campaigns/" + camp,
		"boxes": "/data/boxes?limit=50", "boxes offline in a group": "/data/boxes?limit=50&state=offline&group=g1",
		"boxes by version": "/data/boxes?limit=50&version=1.4.1", "boxes by alert": "/data/boxes?limit=50&code=disk-slow",
		"boxes that lack an asset": "/data/boxes?limit=50&group=g1&lacking=" + film.String(),
		"a box":                    "/data/boxes/" + boxID(77), "the page itself": "/",
	}
	f.eventually("the fleet is counted as it is now", func() bool {
		var o struct {
			Boxes     int `json:"boxes"`
			Campaigns []struct {
				Counts *struct{ Ready int } `json:"counts"`
			} `json:"campaigns"`
		}
		status, data := f.call("GET", "/data/overview", "", nil)
		return status == http.StatusOK && json.Unmarshal(data, &o) == nil && o.Boxes == boxes && len(o.Campaigns) == 1 &&
			o.Campaigns[0].Counts != nil
	})
	out := map[string]asked{}
	for range rounds {
		for name, path := range paths {
			begin := time.Now()
			resp, err := http.Get(f.url + path)
			must(t, err)
			n, err := io.Copy(io.Discard, resp.Body)
			must(t, err)
			must(t, resp.Body.Close())
			took := time.Since(begin)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", path, resp.Status)
			}
			a := out[name]
			a.took, a.size = append(a.took, took), max(a.size, int(n))
			out[name] = a
		}
	}
	return out
}

// fill makes a fleet that has reported: a tenth is silent, half has the film, some have trouble.
func (f *fleet) fill(boxes int, film asset.ID) {
	f.t.Helper()
	in := map[string]string{}
	for n := range boxes {
		in[boxID(n)] = "g" + strconv.Itoa(n%8)
	}
	must(f.t, f.reg.PutBoxes(f.t.Context(), in))
	now := time.Now()
	why := strings.Repeat("on its way ", 18)
	var msgs []mqttwire.Message
	for n := range boxes {
		box := boxID(n)
		if n%10 == 3 {
			continue
		}
		msgs = append(msgs, f.report(box, func(r *mqttwire.Reported) {
			r.Software = "1.4." + strconv.Itoa(min(n%20, 2))
			r.Traffic = mqttwire.Traffic{LAN: gib, Peer: gib, Origin: gib}
			for k := range 2 {
				id := film
				id[0] += byte(k)
				r.Assets = append(r.Assets, mqttwire.AssetProgress{ID: id, State: mqttwire.Fetching, Have: 1000, Size: 700_000, Why: why})
			}
			if n%50 == 0 {
				r.Health = []mqttwire.Warning{{Code: "disk-slow", Severity: "warning", Text: "The disk answers slowly.", Since: now}}
			}
		}))
		if n%2 == 0 {
			at := now.Add(-time.Duration(n%360) * time.Minute)
			msgs = append(msgs, f.arrival(box, film, 700_000, at, mqttwire.Traffic{LAN: 500_000, Peer: 150_000, Origin: 50_000}))
		}
		if len(msgs) > 4000 {
			f.ingest(msgs...)
			msgs = msgs[:0]
		}
	}
	f.ingest(msgs...)
	found, err := f.reg.FindAlerts(f.t.Context(), registry.AlertRules{OfflineBefore: now.Add(-time.Hour), MaxSkew: time.Minute})
	must(f.t, err)
	must(f.t, f.reg.SetAlerts(f.t.Context(), found))
}
