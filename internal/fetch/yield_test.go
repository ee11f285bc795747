package fetch

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/fetch/pace"
)

// A kernel that counts no received bytes does not make a line that gives much look dead.
func TestAKernelThatDoesNotCount(t *testing.T) {
	t.Parallel()
	y := &yielder{}
	old := pace.Look{Sockets: 2}
	if in, out := y.moved(old, 500, 20); in != 500 || out != 20 {
		t.Errorf("%d in and %d out with a kernel that does not count", in, out)
	}
	if in, out := y.moved(pace.Look{Sockets: 2, Received: 700, Acked: 30}, 500, 20); in != 700 || out != 30 {
		t.Errorf("%d in and %d out with one that counts", in, out)
	}
	if in, _ := y.moved(old, 500, 20); in != 0 {
		t.Errorf("%d arrived, though the kernel saw nothing: it was in memory", in)
	}
	if in, _ := y.moved(pace.Look{}, 500, 20); in != 500 {
		t.Errorf("%d in without sockets to ask", in)
	}
}

// A line over which nothing comes is not measured for ever, and one over which little comes is.
func TestWhenTheLineIsUsed(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	measured := func(perSecond int64, asked time.Duration) (d time.Duration) {
		u := usage{since: begin}
		for d = 0; d < time.Minute; d += pace.Interval {
			if u.idle(begin.Add(d), perSecond*int64(pace.Interval)/int64(time.Second), d < asked) {
				break
			}
		}
		return d.Truncate(time.Second)
	}
	for _, c := range []struct {
		perSecond   int64
		asked, want time.Duration
	}{{0, 0, lineIdle}, {40, 0, lineIdle}, {2000, 0, time.Minute}, {0, 20 * time.Second, 20*time.Second + lineIdle}} {
		if got := measured(c.perSecond, c.asked); got < c.want-time.Second || got > c.want+time.Second {
			t.Errorf("%d B/s, asked for %s: measured for %s, want %s", c.perSecond, c.asked, got, c.want)
		}
	}
}

// A probe that failed once is tried again while the line is still in use.
func TestTheProbeIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		y := &yielder{f: &Fetcher{log: slog.New(slog.DiscardHandler)}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begin := time.Now()
		tries := 0
		y.echo(ctx, func() error {
			if tries++; tries == 4 {
				cancel()
			}
			return errors.New("no way")
		})
		if d := time.Since(begin); tries != 4 || d != (1+2+4)*probeSoon {
			t.Errorf("tried %d times in %s", tries, d)
		}
	})
}
