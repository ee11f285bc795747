package schedule

import (
	"sort"
	"time"
)

// ShareInput is what OriginPieces looks at.
type ShareInput struct {
	BoxID   string
	Asset   string
	Mode    OriginMode
	Pieces  int
	Missing func(piece int) bool // not here and not under way
	Holders func(piece int) int  // known peers that have it
	Peers   []string             // box ids of the known peers of the swarm, for when the tracker tells no share
	// Index and Of are this box's place among the boxes of the swarm, as the tracker tells it; Of 0: it does not.
	Index, Of int
	Elapsed   time.Duration // since this box may use the WAN for the asset, this time
	// Pace is the time over which the pieces become due in OriginSpare, and Before how much of it had passed before Elapsed.
	Pace, Before time.Duration
	// Patience: after so long, the next box in line takes over a piece that was due and that its owner has not brought.
	Patience time.Duration
	Max      int // pieces to return at most; 0: all
}

// DefaultPatience is how long the owner of a piece is given to bring it into the swarm.
const DefaultPatience = 30 * time.Second

// shortPatience is the least that it is when the pieces become due one after the other.
const shortPatience = 5 * time.Second

// OriginPieces returns the pieces that this box may ask the origin for now, best first. Every piece has one owner in the
// swarm and a line of boxes behind it, so that boxes that know nothing of each other ask for different pieces, and a
// piece whose owner is dead is brought by the next in line.
//
// OriginSpare gives the pieces that are due, that no known peer has and whose turn it is: this box's own, and only when there
// are none those that it takes over. OriginAssist and OriginUrgent give every
// missing piece, this box's own first, then those that the fewest peers have.
func OriginPieces(in ShareInput) []int {
	if in.Mode == OriginOff {
		return nil
	}
	type choice struct{ piece, turn, holders int }
	var list []choice
	patience := in.Patience
	if patience <= 0 {
		patience = DefaultPatience
		if in.Pace > 0 { // the owner is told of its pieces one by one, and needs no long for each
			patience = min(max(in.Pace/2, shortPatience), patience)
		}
	}
	line, dues := in.line(), in.dues(patience)
	own := false
	for p := range in.Pieces {
		if !in.Missing(p) {
			continue
		}
		c := choice{p, line.turn(p), in.Holders(p)}
		if in.Mode == OriginSpare {
			due := dues.since(p)
			if c.holders > 0 || due < 0 || c.turn > int(due/patience) || own && c.turn > 0 {
				continue
			}
			if c.turn == 0 && !own {
				own, list = true, list[:0]
			}
		}
		list = append(list, c)
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if (a.turn == 0) != (b.turn == 0) {
			return a.turn == 0
		}
		if a.holders != b.holders {
			return a.holders < b.holders
		}
		return a.turn < b.turn
	})
	if in.Max > 0 && len(list) > in.Max {
		list = list[:in.Max]
	}
	pieces := make([]int, len(list))
	for i, c := range list {
		pieces[i] = c.piece
	}
	return pieces
}

// jitter is the part of the pace by which boxes differ: of those that take a piece for theirs, because they do not know of
// each other or were told of the swarm at different sizes, the first brings it, and the others hear of it.
const jitter = 0.1

// part is a number in [0, 1) from the high bits.
func part(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// dues knows when pieces become due to this box.
type dues struct {
	in    *ShareInput
	first uint64 // place of piece 0
	late  time.Duration
}

// dues gives boxes with shares of their own less jitter than patience: the next in line must not come before the owner.
func (in *ShareInput) dues(patience time.Duration) dues {
	most := time.Duration(jitter * float64(in.Pace))
	if in.Of > 1 {
		most = min(most, patience/4)
	}
	return dues{in, mix(hashOf(in.Asset)), time.Duration(fraction(in.BoxID, in.Asset) * float64(most))}
}

// since is for how long the piece has been due; negative when it is not yet. Pieces become due evenly over the pace, in an
// order that is the same for all boxes and looks random: the golden ratio spreads them as evenly as can be.
func (d *dues) since(piece int) time.Duration {
	if d.in.Pace <= 0 {
		return d.in.Elapsed
	}
	place := d.first + uint64(piece)*0x9e3779b97f4a7c15 //nolint:gosec // pieces are not negative
	due := time.Duration(part(place)*float64(d.in.Pace)) + d.late
	return min(d.in.Before+d.in.Elapsed-due, d.in.Elapsed)
}

// line knows this box's place in the line for each piece.
type line struct {
	index, of int
	asset     uint64
	self      uint64   // seed of this box's rendezvous weights
	others    []uint64 // seeds of the known peers'
}

func (in *ShareInput) line() line {
	l := line{index: in.Index, of: in.Of, asset: hashOf(in.Asset), self: hashOf(in.Asset, in.BoxID)}
	if in.Of > 1 {
		return l
	}
	for _, p := range in.Peers {
		if p != in.BoxID {
			l.others = append(l.others, hashOf(in.Asset, p))
		}
	}
	return l
}

// turn is 0 for the owner of a piece, 1 for the box that takes over from it, and so on.
func (l *line) turn(piece int) int {
	n := uint64(piece) //nolint:gosec // pieces are not negative
	if l.of > 1 {
		owner := jump(mix(l.asset+n), l.of)
		return ((l.index-owner)%l.of + l.of) % l.of
	}
	before := 0
	for mine, i := mix(l.self+n), 0; i < len(l.others); i++ {
		if mix(l.others[i]+n) > mine {
			before++
		}
	}
	return before
}

// jump chooses one of n boxes so that a larger n gives a piece another box only when that is one of those that came (jump
// consistent hash, Lamping and Veach). Boxes that the tracker told of the swarm at different sizes so agree on most owners,
// and no piece is without one: with a remainder in its place a third of the pieces had none, and a quarter several.
func jump(key uint64, n int) int {
	b := 0
	for j := 0; j < n; {
		b = j
		key = key*2862933555777941757 + 1
		j = int(float64(b+1) * (float64(1<<31) / float64(key>>33+1)))
	}
	return b
}
