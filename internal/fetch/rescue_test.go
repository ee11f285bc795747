package fetch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
	"boxd/internal/fetch/tracker"
	"boxd/internal/lan"
	"boxd/internal/schedule"
)

type fixedHome struct {
	neighbours []lan.Neighbour
	courier    string
}

func (h *fixedHome) SetSelf(lan.Self)                {}
func (h *fixedHome) Neighbours() []lan.Neighbour     { return h.neighbours }
func (h *fixedHome) Courier(asset.ID) (string, bool) { return h.courier, h.courier == "me" }
func (h *fixedHome) IsLAN(netip.Addr) bool           { return true }
func (h *fixedHome) Changed() <-chan struct{}        { return nil }

type me struct{}

func (me) BoxID() string          { return "me" }
func (me) Group() string          { return "" }
func (me) Now() (time.Time, bool) { return time.Now(), true }

// follower is an item of 100 pieces of 1 MiB that another box carries.
func follower(t *testing.T, h *fixedHome) (*Fetcher, *item) {
	f := &Fetcher{o: Options{LAN: h, Identity: me{}}}
	tor, err := bencode.Marshal(map[string]any{"info": map[string]any{
		"name": "film", "piece length": 1 << 20, "length": 100 << 20, "pieces": string(make([]byte, 100*asset.HashSize)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := asset.ParseTorrent(tor)
	if err != nil {
		t.Fatal(err)
	}
	f.home.Store(&map[string]bool{})
	return f, &item{id: info.ID, info: info, runs: map[*originRun]bool{}}
}

func TestAFollowerKnowsWhenItsCourierWillBeReady(t *testing.T) {
	h := &fixedHome{courier: "you"}
	f, it := follower(t, h)
	id := it.id
	want := lan.Want{ID: id, Have: 40, WANBytes: 40 << 20, WANRate: 1 << 20}
	h.neighbours = []lan.Neighbour{{ID: "you", WAN: true, Wants: []lan.Want{want}}}
	now, mono := time.Unix(1e9, 0), time.Now()
	look := func(after time.Duration) schedule.Asset { return f.describe(it, 0, now.Add(after), mono.Add(after)) }
	if a := look(0); !a.Follower || !a.CourierETA.IsZero() || a.CourierStuck {
		t.Errorf("at first %+v", a)
	}
	if a := look(20 * time.Second); !a.CourierETA.Equal(now.Add(80*time.Second)) || a.CourierStuck {
		t.Errorf("60 pieces at one a second, after 20 s: eta %v", a.CourierETA.Sub(now))
	}
	if a := look(courierStuck); !a.CourierStuck {
		t.Error("a courier that has not moved is not noticed")
	}
	h.neighbours[0].Wants = []lan.Want{{ID: id, Have: 41, WANBytes: 41 << 20}}
	if a := look(courierStuck + time.Second); a.CourierStuck || !a.CourierETA.IsZero() {
		t.Errorf("it moves again at an unknown rate: %+v", a)
	}
	// Another follower comes first: this one stays with the household.
	h.neighbours = append(h.neighbours, lan.Neighbour{ID: "a", WAN: true, Wants: []lan.Want{{ID: id}}})
	h.neighbours[0].Wants = []lan.Want{want}
	if a := look(time.Hour); !a.CourierETA.IsZero() || a.CourierStuck {
		t.Errorf("two followers rescue: %+v", a)
	}
	h.courier = "a" // a new courier is judged anew
	h.neighbours = h.neighbours[1:]
	look(2 * time.Hour)
	if a := look(2*time.Hour + time.Second); a.CourierStuck {
		t.Error("a new courier inherits the old one's standstill")
	}
}

func TestAFollowerWhosePlanSaysSoOpensTheLine(t *testing.T) {
	f, it := follower(t, &fixedHome{courier: "you"})
	it.rec.Started = time.Now()
	f.switchWAN(it, time.Now())
	if it.wanOn {
		t.Fatal("the line is open though the plan does not say so")
	}
	it.want.WAN = true
	f.switchWAN(it, time.Now())
	if !it.wanOn {
		t.Fatal("the plan says WAN and the follower does not use it")
	}
	it.want.WAN = false
	if f.switchWAN(it, time.Now()); it.wanOn {
		t.Fatal("the line stays open")
	}
}

func TestTheHeirOfADeadCourierDoesNotWaitToMeet(t *testing.T) {
	for name, c := range map[string]struct {
		courier string // before
		stays   bool   // in the home
		waits   bool
		first   bool // the tracker knows of this home only
	}{
		"the courier died":        {courier: "you", waits: false},
		"nobody to meet":          {courier: "", first: true, waits: false},
		"it handed over":          {courier: "you", stays: true, waits: true},
		"there was none":          {courier: "", waits: true},
		"it was this box already": {courier: "me", waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := &fixedHome{courier: c.courier, neighbours: []lan.Neighbour{{ID: "you", WAN: true}}}
			f, it := follower(t, h)
			now := time.Now()
			f.describe(it, 0, now, now)
			if !c.stays {
				h.neighbours = nil
			}
			for _, courier := range []string{"", "me", "me"} { // while the home settles there is none
				h.courier = courier
				f.describe(it, 0, now, now)
			}
			it.want.Origin, it.wanSince, it.ann.known = schedule.OriginSpare, now, true
			if !c.first {
				it.ann.answer.Peers = []tracker.Peer{{Box: "far"}}
			}
			if got := f.settles(it, now.Add(time.Second)); got != c.waits {
				t.Errorf("waits to meet: %v, want %v", got, c.waits)
			}
			if f.settles(it, now.Add(meeting)) {
				t.Error("waits for ever")
			}
		})
	}
}
