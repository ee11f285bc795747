package pace

import (
	"testing"
	"time"
)

// An answer counts for its own request only, however late it comes and however many were asked for since.
func TestAnswersThatComeTooLateCountForNothing(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	for _, c := range []struct {
		seq   uint16
		after time.Duration // the request
		want  bool
	}{
		{7, 10 * time.Millisecond, true},
		{7, 999 * time.Millisecond, true},
		{7, time.Second, false},
		{7, 3210 * time.Millisecond, false}, // its place is another's by now
		{7, 3700 * time.Millisecond, false},
	} {
		var r requests
		asked := begin
		for seq := uint16(0); ; seq++ {
			at := begin.Add(time.Duration(seq) * Interval)
			if seq == c.seq {
				asked = at
			}
			if at.After(asked.Add(c.after)) && seq > c.seq {
				break
			}
			r.missing(at)
			r.add(seq, at)
		}
		d, ok := r.answer(c.seq, asked.Add(c.after))
		if ok != c.want || ok && d != c.after {
			t.Errorf("an answer after %s: %s, %v", c.after, d, ok)
		}
		if _, ok := r.answer(c.seq, asked.Add(c.after)); ok {
			t.Errorf("the same answer after %s counts twice", c.after)
		}
	}
}

// Where a router answers but a few a second it is asked more seldom; where that does not help, as often as before.
func TestHowOftenEchoesAreAskedFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answers func(second, inSecond int) bool
		slow    bool // most of the time
	}{
		"all":             {func(int, int) bool { return true }, false},
		"the first four":  {func(_, n int) bool { return n < 4 }, true},
		"the first eight": {func(_, n int) bool { return n < 8 }, true},
		"none":            {func(int, int) bool { return false }, false},
		"one of three":    {func(s, n int) bool { return (s*7+n)%3 == 0 }, false},
		"two of three":    {func(s, n int) bool { return (s*7+n)%3 != 0 }, false},
	} {
		var p tempo
		begin := time.Unix(1000, 0)
		var slow time.Duration
		second, n := -1, 0
		for now := begin; now.Before(begin.Add(10 * time.Minute)); now = now.Add(p.interval(Interval)) {
			if s := int(now.Sub(begin) / time.Second); s != second {
				second, n = s, 0
			}
			p.took(now, c.answers(second, n))
			n++
			if p.slow {
				slow += p.interval(Interval)
			}
		}
		if got := slow > 5*time.Minute; got != c.slow {
			t.Errorf("%s: slow for %s of ten minutes", name, slow)
		}
	}
}
