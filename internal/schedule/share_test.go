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

func TestTheNextInLineTakesOverFromADeadOwner(t *testing.T) {
	in := ShareInput{
		BoxID: "b", Asset: "x", Mode: OriginSpare, Pieces: 300, Missing: all, Holders: nobody, Index: 1, Of: 3,
		Patience: time.Second,
	}
	first := len(OriginPieces(in))
	in.Elapsed = time.Second
	second := len(OriginPieces(in))
	in.Elapsed = 2 * time.Second
	if third := len(OriginPieces(in)); first >= second || second >= third || third != 300 {
		t.Errorf("pieces after 0, 1 and 2 turns: %d, %d, %d; want more each time and all in the end", first, second, third)
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
