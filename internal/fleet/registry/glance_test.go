package registry_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

func init() {
	common["TheDashboardCountsWhatBoxesSaid"] = testTheDashboardCountsWhatBoxesSaid
}

func testTheDashboardCountsWhatBoxesSaid(t *testing.T, open opener) {
	g := open(clock)
	groups := map[string]string{}
	for n := range 7 {
		groups[fmt.Sprintf("box-%d", n)] = []string{"north", "south"}[n%2]
	}
	if err := g.PutBoxes(ctx, groups); err != nil {
		t.Fatal(err)
	}
	for n := range 6 { // box-6 never speaks
		box := fmt.Sprintf("box-%d", n)
		ingest(t, g, report(t, box, env("epoch-one", 1, 1), func(r *mqttwire.Reported) {
			r.Software = "1." + strconv.Itoa(n%2)
			if n == 4 {
				r.Assets = []mqttwire.AssetProgress{{ID: asset.ID{9}, State: mqttwire.Fetching, Size: 10, Late: true}}
			}
		}))
	}
	ingest(t, g, state(t, "box-5", env("epoch-one", 1, 2), false))
	glance, err := g.Glance(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if glance.Boxes != 7 || glance.Online != 5 || glance.AtRisk != 1 {
		t.Errorf("%+v", glance.Standings)
	}
	if gr := glance.Groups; len(gr) != 2 || gr[0].Name != "north" || gr[0].Boxes != 4 || gr[1].Online != 2 {
		t.Errorf("groups %+v", glance.Groups)
	}
	if len(glance.Versions) != 3 || glance.Versions[2].Boxes != 1 {
		t.Errorf("versions %+v", glance.Versions)
	}

	// The same proof twice counts once; a withdrawal is no arrival.
	for range 2 {
		ingest(t, g, arrival(t, "box-0", "epoch-one", 1, 9, mqttwire.EventArrived), arrival(t, "box-1", "epoch-one", 1, 9, mqttwire.EventArrived))
	}
	ingest(t, g, arrival(t, "box-0", "epoch-one", 2, 9, mqttwire.EventErased))
	for _, c := range []struct {
		group  string
		assets []string
		want   int64
	}{{"", nil, 2}, {"north", []string{asset.ID{9}.String()}, 1}, {"north", []string{asset.ID{8}.String()}, 0}} {
		list, err := g.ArrivalSeries(ctx, c.assets, c.group, at.Add(-time.Hour), at.Add(time.Hour), 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var sum registry.Arrivals
		for _, p := range list {
			sum.Boxes += p.Boxes
			sum.LAN += p.LAN
		}
		if sum.Boxes != c.want || sum.LAN != 60*c.want {
			t.Errorf("%s %v: %+v, want %d", c.group, c.assets, sum, c.want)
		}
	}
	pagesOfBoxes(t, g)
}

func pagesOfBoxes(t *testing.T, g *registry.Registry) {
	t.Helper()
	for _, c := range []struct {
		q    registry.BoxQuery
		want []string
	}{
		{registry.BoxQuery{}, []string{"box-0", "box-1", "box-2", "box-3", "box-4", "box-5", "box-6"}},
		{registry.BoxQuery{State: "offline"}, []string{"box-5", "box-6"}},
		{registry.BoxQuery{State: "at-risk"}, []string{"box-4"}},
		{registry.BoxQuery{State: "online", Group: "south", Software: "1.1"}, []string{"box-1", "box-3"}},
		{registry.BoxQuery{Prefix: "box-", State: "offline"}, []string{"box-5", "box-6"}},
		{registry.BoxQuery{Prefix: "bo"}, []string{"box-0", "box-1", "box-2", "box-3", "box-4", "box-5", "box-6"}},
		{registry.BoxQuery{Prefix: "box-3"}, []string{"box-3"}},
		{registry.BoxQuery{Group: "south", Lacking: asset.ID{9}.String()}, []string{"box-3", "box-5"}},
		{registry.BoxQuery{Group: "nowhere"}, nil},
	} {
		var got []string
		c.q.Limit = 2
		for {
			page, err := g.BoxPage(ctx, c.q)
			if err != nil {
				t.Fatal(err)
			}
			if page.Total != len(c.want) {
				t.Errorf("%+v: total %d, want %d", c.q, page.Total, len(c.want))
			}
			for _, b := range page.Boxes {
				got = append(got, b.ID)
			}
			if c.q.After = page.Next; page.Next == "" {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%+v: %v, want %v", c.q, got, c.want)
		}
	}
}

// BenchmarkDashboard asks what a page asks, of a fleet of BOXD_BOXES boxes (10,000 by default) with a report of 1 kB each.
func BenchmarkDashboard(b *testing.B) {
	boxes := 10_000
	if n, err := strconv.Atoi(os.Getenv("BOXD_BOXES")); err == nil {
		boxes = n
	}
	g, err := registry.Open(ctx, registry.Options{Path: filepath.Join(b.TempDir(), "fleet.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	fillFleet(b, g, boxes)
	from := time.Now().Add(-24 * time.Hour)
	for name, ask := range map[string]func() (any, error){
		"glance": func() (any, error) { return g.Glance(ctx) },
		"first":  func() (any, error) { return g.BoxPage(ctx, registry.BoxQuery{Limit: 50}) },
		"offline": func() (any, error) {
			return g.BoxPage(ctx, registry.BoxQuery{Limit: 50, State: "offline", Group: "g1"})
		},
		"version": func() (any, error) { return g.BoxPage(ctx, registry.BoxQuery{Limit: 50, Software: "1.4.1"}) },
		"box":     func() (any, error) { return g.Box(ctx, "box-00077") },
		"series":  func() (any, error) { return g.ArrivalSeries(ctx, nil, "", from, time.Now(), 15*time.Minute) },
		"standing": func() (any, error) {
			n := 0
			return &n, g.EachStanding(ctx, "g1", []string{asset.ID{1}.String()}, func(registry.Standing) { n++ })
		},
	} {
		b.Run(name, func(b *testing.B) {
			var size int
			for b.Loop() {
				out, err := ask()
				if err != nil {
					b.Fatal(err)
				}
				data, err := json.Marshal(out)
				if err != nil {
					b.Fatal(err)
				}
				size = len(data)
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}

func fillFleet(b *testing.B, g *registry.Registry, boxes int) {
	b.Helper()
	now := time.Now()
	groups := map[string]string{}
	for n := range boxes {
		groups[fmt.Sprintf("box-%05d", n)] = "g" + strconv.Itoa(n%8)
	}
	if err := g.PutBoxes(ctx, groups); err != nil {
		b.Fatal(err)
	}
	why := ""
	for len(why) < 200 {
		why += "on its way "
	}
	var batch []mqttwire.Message
	send := func(box, tail string, payload mqttwire.Checker) {
		topic, err := mqttwire.ParseTopic(mqttwire.BoxTopic("f", box, tail))
		if err != nil {
			b.Fatal(err)
		}
		data, err := mqttwire.Encode(mqttwire.MaxPayload, payload)
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, mqttwire.Message{Topic: topic, Payload: data, Received: now})
	}
	for n := range boxes {
		box := fmt.Sprintf("box-%05d", n)
		e := mqttwire.Envelope{V: 1, Epoch: "epoch-one", SID: 1, Seq: 1, TS: now}
		send(box, "reported", &mqttwire.Reported{
			Envelope: e, Software: "1.4." + strconv.Itoa(min(n%20, 2)), Disk: mqttwire.Disk{Used: 1, Quota: 2},
			Assets: []mqttwire.AssetProgress{
				{ID: asset.ID{1}, State: mqttwire.Fetching, Size: 10, Why: why}, {ID: asset.ID{2}, State: mqttwire.Fetching, Size: 10, Why: why},
			},
		})
		if n%2 == 0 {
			send(box, mqttwire.EventTail(1), &mqttwire.Event{
				Envelope: e, Evt: 1, Kind: mqttwire.EventArrived, Asset: asset.ID{1}, Size: 100, At: now,
			})
		}
		if len(batch) >= 2000 || n == boxes-1 {
			if _, err := g.Ingest(ctx, batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
}
