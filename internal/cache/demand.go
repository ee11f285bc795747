package cache

import (
	"cmp"
	"math"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"boxd/internal/asset"
)

// Span is pieces [Begin, End).
type Span struct {
	Begin, End int
	Soon       bool // a reader waits for them, or will within seconds at the speed at which it reads
	Now        bool // the first of them is the first that a reader lacks, and soon
}

// How far ahead of the readers of an asset Demand asks: what they read in aheadTime, within the bounds of the options.
const (
	aheadTime = 20 * time.Second
	soonTime  = 4 * time.Second
	paceTime  = 10 * time.Second // over which their speed is taken
	// afterTime is how long after a reader has read a file to its end the files that follow it are asked for: a player
	// of a package opens the next segment when it has room for it.
	afterTime = 15 * time.Second
	mostAfter = 64 // files
	mostKinds = 8  // of files in one package that are played side by side: pictures, sounds, texts
)

// readPace is how fast an asset is read, by all its readers together.
type readPace struct {
	rate  float64 // bytes per second at since
	since time.Time
	bytes float64 // read since then
}

// paceStep is the least time over which a speed is told.
const paceStep = 250 * time.Millisecond

func (p *readPace) add(n int64, now time.Time) {
	if p.since.IsZero() {
		p.since = now
	}
	p.bytes += float64(n)
	el := now.Sub(p.since)
	if el < paceStep {
		return
	}
	w := 1 - math.Exp(-el.Seconds()/paceTime.Seconds())
	p.rate += w * (p.bytes/el.Seconds() - p.rate)
	p.since, p.bytes = now, 0
}

// at is the speed now: it falls while nothing is read.
func (p *readPace) at(now time.Time) float64 {
	q := *p
	if !q.since.IsZero() {
		q.add(0, now)
	}
	return q.rate
}

// following is what comes after a file that was read to its end.
type following struct {
	kind  string
	files []asset.File
	until time.Time
}

// ended notes what comes after a file that was read to its end. entry.mu is held.
func (e *entry) ended(r *Reader, now time.Time) {
	e.begun(r.path, now)
	if len(e.after) < mostKinds {
		e.after = append(e.after, following{kindOf(r.path), r.followers(true), now.Add(afterTime)})
	}
}

// begun forgets what comes after the file before this one, which may be another than before a seek: who reads this one asks
// for what comes after it. entry.mu is held.
func (e *entry) begun(path string, now time.Time) {
	kind := kindOf(path)
	e.after = slices.DeleteFunc(e.after, func(f following) bool { return f.kind == kind || !now.Before(f.until) })
}

// kindOf is what the names of segments that follow each other have in common: all but their last number.
func kindOf(name string) string {
	ext := path.Ext(name)
	base := strings.TrimSuffix(name, ext)
	end := strings.LastIndexAny(base, "0123456789") + 1
	return strings.TrimRight(base[:end], "0123456789") + "/" + base[end:] + ext
}

// Demand is the missing pieces that open readers need next, nearest first, without those that are only to be hashed
// again: first what is needed soon, then as much ahead as the readers' speed asks for, into the files that follow theirs
// in a package. Readers that read last come first.
func (a *Asset) Demand() []Span {
	e := a.e
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*Reader, 0, len(e.readers))
	for r := range e.readers {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *Reader) int { return b.active.Compare(a.active) })
	speed := e.pace.at(now)
	w := wants{
		e: e, seen: map[int]bool{}, soonSeen: map[int]bool{}, now: map[int]bool{}, soon: int64(speed * soonTime.Seconds()),
		ahead: min(max(int64(speed*aheadTime.Seconds()), e.c.o.ReadAhead), e.c.o.ReadAheadMost),
	}
	for _, r := range list {
		if r.pos >= r.size {
			continue
		}
		spans := append([]asset.File{{Offset: r.base + r.pos, Length: r.size - r.pos}}, r.followers(r.size-r.pos < w.ahead && r.through())...)
		switch lead := w.lead(spans); {
		case lead >= w.ahead:
			r.full = true
		case lead < w.ahead/2:
			r.full = false
		}
		if r.full {
			continue // the line rests until half of it is read
		}
		w.first = true
		w.all(spans, 0)
	}
	w.first = false
	for _, a := range e.after {
		if now.Before(a.until) {
			w.all(a.files, w.soon+1) // nobody waits for them yet
		}
	}
	return w.spans()
}

// wants gathers missing pieces by how far they are from a reader.
type wants struct {
	e           *entry
	soon, ahead int64 // bytes from a reader
	seen        map[int]bool
	soonSeen    map[int]bool // of them, those in near, which may be in far as well
	near, far   []int
	now         map[int]bool // those that readers lack first
	first       bool         // the reader at hand lacks none before
}

// lead is how many bytes from the first on are here, in spans one after the other.
func (w *wants) lead(spans []asset.File) (n int64) {
	e := w.e
	for _, s := range spans {
		i := int64(e.have.next(int(s.Offset/e.pieceLen), false))
		if end := s.Offset + s.Length; i*e.pieceLen < end {
			return n + max(0, i*e.pieceLen-s.Offset)
		}
		n += s.Length
	}
	return max(n, w.ahead) // there is nothing behind them
}

// all takes the missing pieces of spans one after the other, of which the first is so far from its reader.
func (w *wants) all(spans []asset.File, dist int64) {
	for _, s := range spans {
		dist = w.add(s.Offset, s.Offset+s.Length, dist)
	}
}

// add takes the missing pieces of [from, to), of which the first byte is so far from its reader, and returns how far to is.
func (w *wants) add(from, to, dist int64) int64 {
	e := w.e
	end := min(to, from+max(0, w.ahead-dist))
	if end > from {
		for i := e.have.next(int(from/e.pieceLen), false); i < pieces(end, e.pieceLen); i = e.have.next(i+1, false) {
			soon := dist+int64(i)*e.pieceLen-from <= w.soon
			if w.first && !e.unknown.get(i) {
				w.first, w.now[i] = false, soon || w.now[i]
			}
			if e.unknown.get(i) {
				continue
			}
			if soon && !w.soonSeen[i] {
				w.soonSeen[i] = true
				w.near = append(w.near, i)
			} else if !soon && !w.seen[i] {
				w.far = append(w.far, i)
			}
			w.seen[i] = true
		}
	}
	return dist + to - from
}

func (w *wants) spans() (list []Span) {
	put := func(i int, soon bool) {
		if k := len(list) - 1; k >= 0 && list[k].End == i && list[k].Soon == soon && !w.now[i] {
			list[k].End++
			return
		}
		list = append(list, Span{i, i + 1, soon, w.now[i]})
	}
	for _, i := range w.near {
		put(i, true)
	}
	for _, i := range w.far {
		if !w.soonSeen[i] { // a reader that read less lately stands close before it
			put(i, false)
		}
	}
	return list
}

// through says that the file is read from its beginning or for long, so that its end leads to what follows: a film's index
// at its end, which is read first, does not. entry.mu is held.
func (r *Reader) through() bool {
	ahead := r.a.e.c.o.ReadAhead
	return r.from == 0 || r.size <= ahead || r.read >= min(r.size/2, 4*ahead)
}

// followers are the files after the reader's own, once they are needed. entry.mu is held.
func (r *Reader) followers(needed bool) []asset.File {
	if needed && !r.followed {
		r.followed, r.follow = true, r.a.e.filesAfter(r.a.info, r.path)
	}
	return r.follow
}

// filesAfter lists the files of the same folder and kind that come after one, as people count: 9 before 10. entry.mu is held.
func (e *entry) filesAfter(info *asset.Info, name string) (list []asset.File) {
	kind := folderAndKind(name)
	order, ok := e.order[kind]
	if !ok { // once: a package may have ten thousand
		for i, f := range info.Files {
			if folderAndKind(f.Path) == kind {
				order = append(order, int32(i)) //nolint:gosec // far fewer files than that
			}
		}
		slices.SortFunc(order, func(a, b int32) int { return natural(info.Files[a].Path, info.Files[b].Path) })
		if e.order == nil {
			e.order = map[[2]string][]int32{}
		}
		e.order[kind] = order
	}
	after := sort.Search(len(order), func(i int) bool { return natural(name, info.Files[order[i]].Path) < 0 })
	for _, i := range order[after:min(after+mostAfter, len(order))] {
		list = append(list, info.Files[i])
	}
	return list
}

func folderAndKind(name string) [2]string { return [2]string{path.Dir(name), path.Ext(name)} }

// natural compares names with numbers in them by the numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x == "" || y == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		a, b = a[len(x):], b[len(y):]
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}
