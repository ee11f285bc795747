//go:build linux

package home

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"boxd/internal/netlab"
)

// lineClock notes what has crossed the line, ten times a second, so that a bench can say where the time went.
type lineClock struct {
	line  *netlab.Line
	zero  int64 // bytes before
	begin time.Time
	stop  chan struct{}
	done  chan struct{}
	marks []lineMark
}

type lineMark struct {
	after time.Duration
	bytes int64 // towards the home
}

func (s *setup) watchLine() *lineClock {
	c := &lineClock{
		line: s.home.Line, zero: s.home.Line.Counters().Down.Bytes, begin: time.Now(), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go c.run()
	return c
}

func (c *lineClock) run() {
	defer close(c.done)
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case now := <-t.C:
			c.marks = append(c.marks, lineMark{now.Sub(c.begin), c.line.Counters().Down.Bytes - c.zero})
		}
	}
}

// at is when so many bytes had come.
func (c *lineClock) at(bytes int64) time.Duration {
	for _, m := range c.marks {
		if m.bytes >= bytes {
			return m.after
		}
	}
	return time.Since(c.begin)
}

// wait returns when so many bytes have come, or in ten minutes. Asking the boxes all the time would take the processors from
// them.
func (c *lineClock) wait(bytes int64) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for end := time.After(10 * time.Minute); c.line.Counters().Down.Bytes-c.zero < bytes; {
		select {
		case <-end:
			return
		case <-t.C:
		}
	}
}

// tell says where the time went: until the campaign was published, until the line began to be used, while it rose, in its
// middle, and after its last byte, until every box had everything.
func (c *lineClock) tell(t *testing.T, published time.Time, size int64) {
	t.Helper()
	end := time.Since(c.begin)
	close(c.stop)
	<-c.done
	whole := c.marks[len(c.marks)-1].bytes
	first, risen, late, last := c.at(256<<10), c.at(size/20), c.at(size*9/10), c.at(whole-64<<10)
	rate := func(bytes int64, d time.Duration) float64 { return float64(bytes) / d.Seconds() / 1e6 }
	t.Logf("the time went: published after %.2f s, first bytes %.2f, first twentieth %.2f, then %.2f MB/s until nine tenths at %.2f, %.2f MB/s until the line's last byte at %.2f, all ready at %.2f",
		published.Sub(c.begin).Seconds(), first.Seconds(), risen.Seconds(), rate(size*17/20, late-risen), late.Seconds(),
		rate(whole-size*9/10, last-late), last.Seconds(), end.Seconds())
	var each []string
	for i := 10; i < len(c.marks); i += 10 {
		each = append(each, fmt.Sprintf("%.1f", rate(c.marks[i].bytes-c.marks[i-10].bytes, c.marks[i].after-c.marks[i-10].after)))
	}
	t.Logf("MB/s in each second: %s", strings.Join(each, " "))
}
