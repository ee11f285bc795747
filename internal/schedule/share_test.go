package schedule

import (
	"fmt"
	"reflect"
	"testing"
	"time"
)

func all(int) bool   { return true }
func nobody(int) int { return 0 }

// Boxes that know each other divide the pieces among them: every piece is asked for by exactly one.
func TestSharesAreDisjointAndComplete(t *testing.T) {
	boxes := []string{"a", "b", "c", "d", "e"}
	for name, share := range map[string]func(i int) ShareInput{
		"by rendezvous":  func(i int) ShareInput { return ShareInput{BoxID: boxes[i], Peers: boxes} },
		"by the tracker": func(i int) ShareInput { return ShareInput{BoxID: boxes[i], Index: i, Of: len(boxes)} },
	} {
		asked := map[int]int{}
		for i := range boxes {
			in := share(i)
			in.Asset, in.Mode, in.Pieces, in.Missing, in.Holders = "x", OriginSpare, 1000, all, nobody
			list := OriginPieces(in)
			if len(list) < 140 || len(list) > 260 {
				t.Errorf("%s: box %d owns %d of 1000 pieces, want about 200", name, i, len(list))
			}
			for _, p := range list {
				asked[p]++
			}
		}
		for p := range 1000 {
			if asked[p] != 1 {
				t.Errorf("%s: piece %d is asked for by %d boxes", name, p, asked[p])
			}
		}
	}
}

// Boxes that were told of the swarm at different sizes, while it grew, still agree on most owners: no piece is without one,
// and few have two.
func TestSharesOfAGrowingSwarmAgree(t *testing.T) {
	const boxes, pieces = 200, 500
	owners, none := 0, 0
	for p := range pieces {
		n := 0
		for i := range boxes {
			told := ShareInput{Asset: "x", Index: i, Of: min(max(i+1, 180+i%20), boxes)}
			if l := told.line(); l.turn(p) == 0 {
				n++
			}
		}
		if owners += n; n == 0 {
			none++
		}
	}
	if none > 0 || owners > pieces*115/100 {
		t.Errorf("%d of %d pieces have no owner; %d owners in all", none, pieces, owners)
	}
}

// The owner of a piece is always asked to bring it before the next in line is, however long the pieces take to become due.
func TestNobodyTakesOverBeforeTheOwnersTurn(t *testing.T) {
	const boxes, pieces = 50, 200
	first := func(i int) map[int]time.Duration {
		at := map[int]time.Duration{}
		for e := time.Duration(0); e <= 3*time.Hour; e += 2 * time.Minute {
			for _, p := range OriginPieces(ShareInput{
				BoxID: fmt.Sprint("box-", i), Asset: "x", Mode: OriginSpare, Pieces: pieces, Holders: nobody, Index: i, Of: boxes,
				Missing: func(p int) bool { _, have := at[p]; return !have }, Elapsed: e, Pace: 2 * time.Hour,
			}) {
				at[p] = e
			}
		}
		return at
	}
	at := make([]map[int]time.Duration, boxes)
	for i := range at {
		at[i] = first(i)
	}
	for p := range pieces {
		l := (&ShareInput{Asset: "x", Of: boxes}).line()
		owner := (boxes - l.turn(p)) % boxes
		for i, a := range at {
			if mine, ok := a[p]; i != owner && (!ok || mine < at[owner][p]) {
				t.Fatalf("box %d is told of piece %d after %v, its owner %d after %v", i, p, mine, owner, at[owner][p])
			}
		}
	}
}

func TestTheNextInLineTakesOverFromADeadOwner(t *testing.T) {
	here := map[int]bool{}
	in := ShareInput{
		BoxID: "b", Asset: "x", Mode: OriginSpare, Pieces: 300, Missing: func(p int) bool { return !here[p] }, Holders: nobody,
		Index: 1, Of: 3, Patience: time.Second,
	}
	take := func() int {
		list := OriginPieces(in)
		for _, p := range list {
			here[p] = true
		}
		return len(list)
	}
	first := take()
	if again := take(); again != 0 {
		t.Errorf("%d pieces of others at once", again)
	}
	in.Elapsed = time.Second
	second := take()
	in.Elapsed = 2 * time.Second
	if third := take(); first < 60 || second < 60 || third < 60 || len(here) != 300 {
		t.Errorf("pieces in turns 0, 1 and 2: %d, %d, %d; want about 100 each and all in the end", first, second, third)
	}
}

// Pieces become due evenly, in an order that all boxes agree on; a box that takes over waits from that moment on.
func TestPiecesBecomeDueOverThePace(t *testing.T) {
	in := ShareInput{
		BoxID: "a", Asset: "x", Mode: OriginSpare, Pieces: 1000, Missing: all, Holders: nobody,
		Pace: 1000 * time.Second, Patience: 100 * time.Second,
	}
	due := map[int]bool{}
	for in.Elapsed = 0; in.Elapsed <= in.Pace; in.Elapsed += 50 * time.Second {
		for _, p := range OriginPieces(in) {
			due[p] = true
		}
		if want := int(in.Elapsed / time.Second); len(due) < want-103 || len(due) > want+3 {
			t.Errorf("%d pieces are due after %v, want %d", len(due), in.Elapsed, want)
		}
	}
	// A night later the box knows what was due before, but gives the owners their time anew.
	in.Index, in.Of, in.Before, in.Elapsed = 1, 2, 500*time.Second, 0
	own := OriginPieces(in)
	if len(own) < 150 || len(own) > 260 {
		t.Errorf("%d own pieces are due, want about two fifths of half", len(own))
	}
	mine := map[int]bool{}
	for _, p := range own {
		mine[p] = true
	}
	in.Missing = func(p int) bool { return !mine[p] }
	if list := OriginPieces(in); len(list) != 0 {
		t.Errorf("%d pieces of the other box at once", len(list))
	}
	in.Elapsed = 101 * time.Second
	// All that were due at the beginning of this night, and own ones that became due since.
	n := 0
	for _, p := range OriginPieces(in) {
		if !mine[p] {
			n++
		}
	}
	if n == 0 {
		t.Error("nothing more is due after 100 s")
	}
	in.Mode = OriginUrgent
	in.Elapsed = 0
	if n := len(OriginPieces(in)); n != 1000-len(own) {
		t.Errorf("urgent: %d pieces, want all %d", n, 1000-len(own))
	}
}

func TestSpareLeavesToPeersWhatTheyHave(t *testing.T) {
	in := ShareInput{
		BoxID: "a", Asset: "x", Mode: OriginSpare, Pieces: 4, Missing: func(p int) bool { return p != 3 },
		Holders: func(p int) int { return []int{0, 2, 1, 0}[p] },
	}
	if got := OriginPieces(in); !reflect.DeepEqual(got, []int{0}) {
		t.Errorf("spare %v, want only piece 0, which nobody has", got)
	}
	in.Mode = OriginUrgent
	if got := OriginPieces(in); !reflect.DeepEqual(got, []int{0, 2, 1}) {
		t.Errorf("urgent %v, want the missing ones, rarest first", got)
	}
	in.Max = 1
	if got := OriginPieces(in); !reflect.DeepEqual(got, []int{0}) {
		t.Errorf("at most one: %v", got)
	}
	in.Mode = OriginOff
	if got := OriginPieces(in); got != nil {
		t.Errorf("off: %v", got)
	}
}

func TestUrgentBeginsWithTheOwnShare(t *testing.T) {
	in := ShareInput{BoxID: "a", Asset: "x", Mode: OriginUrgent, Pieces: 100, Missing: all, Holders: nobody, Index: 2, Of: 4}
	list := OriginPieces(in)
	l := in.line()
	for i, p := range list {
		own := l.turn(p) == 0
		if i > 0 && own && l.turn(list[i-1]) != 0 {
			t.Fatalf("piece %d, this box's own, comes after one that is not", p)
		}
	}
	if len(list) != 100 {
		t.Errorf("%d pieces, want all", len(list))
	}
}

func BenchmarkOriginPieces(b *testing.B) {
	in := ShareInput{BoxID: "a", Asset: "x", Mode: OriginSpare, Pieces: 4000, Missing: all, Holders: nobody}
	for i := range 50 {
		in.Peers = append(in.Peers, fmt.Sprint("box-", i))
	}
	for b.Loop() {
		OriginPieces(in)
	}
}

func TestABoxInDangerTakesWhatPeersWillNotBring(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	const mib = 1 << 20
	for _, c := range []struct {
		missing, peers float64 // MiB, MiB/s
		left           time.Duration
		least, most    float64 // MiB/s; 0: no limit
	}{
		{40, 1, 18 * time.Second, 2.5, 3},   // 3.6 are needed with the margin, and peers are trusted with 0.8
		{40, 4, 18 * time.Second, 0.2, 0.5}, //
		{40, 4.5, 18 * time.Second, -1, -1}, // they will do
		{64, 0, 14 * time.Second, 0, 0},     // nothing to be saved
	} {
		in := Input{
			BoxID: "a", ClockTrusted: true, CatalogFresh: true, LineRate: 6 * mib,
			Campaigns: []Campaign{{ID: "c", Assets: []Ref{{ID: "x"}}, Deadline: now.Add(c.left)}},
			Assets: []Asset{{
				ID: "x", Length: 64 * mib, Missing: int64(c.missing * mib), PeerRate: c.peers * mib, PeersKnown: true, Peers: 3,
			}},
		}
		w := Decide(now, in).Wants[0]
		rate := float64(w.OriginRate.Value) / mib
		if c.most < 0 {
			if !w.Danger || w.Origin != OriginSpare || w.Pace != 0 {
				t.Errorf("peers will do, and the origin is asked all the same: %v", w.Origin)
			}
			continue
		}
		if !w.Danger || w.Origin != OriginUrgent || w.OriginRate.Set != (c.most > 0) || rate < c.least || rate > c.most {
			t.Errorf("%v MiB in %v with %v from peers: %v, %+v", c.missing, c.left, c.peers, w.Origin, w.OriginRate)
		}
	}
}
