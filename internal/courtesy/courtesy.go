// Package courtesy keeps boxd out of the way of the box that it runs on: the disk's last place for work that nobody waits
// for, and less work while somebody watches or the box is hot.
//
// Invariants: nothing here can fail the daemon: where a system refuses or lacks something, boxd goes on without it. Apply
// is called from one goroutine, with what holds now, and only when that has changed.
package courtesy

import (
	"context"
	"io/fs"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"boxd/internal/health"
)

// Heat says how warm the box is.
type Heat int

// The levels of heat.
const (
	Cool Heat = iota
	Warm      // near where the system slows itself down: little is fetched, nothing is scrubbed
	Hot       // beyond what slowing down holds, or near where it shuts down: nothing is fetched but what is watched
)

func (h Heat) String() string { return [...]string{"cool", "warm", "hot"}[h] }

// CodeHot is the warning that the box is too warm to work at full speed.
const CodeHot = "box-hot"

// State is what boxd adapts to.
type State struct {
	Playing bool // somebody watches on this box
	Heat    Heat
}

// Quiet says that work that nobody waits for should rest.
func (s State) Quiet() bool { return s.Playing || s.Heat > Cool }

// Options of a Governor. What is nil is not there.
type Options struct {
	Thermal fs.FS // /sys/class/thermal
	Apply   func(State)
	Health  *health.Set
	Log     *slog.Logger
}

// Governor watches the box and tells of changes. Its methods may be called from any goroutine.
type Governor struct {
	o    Options
	wake chan struct{}

	mu      sync.Mutex // guards playing
	playing bool
}

// New returns a governor that has started nothing.
func New(o Options) *Governor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Apply == nil {
		o.Apply = func(State) {}
	}
	return &Governor{o: o, wake: make(chan struct{}, 1)}
}

// SetPlaying says whether somebody watches.
func (g *Governor) SetPlaying(playing bool) {
	g.mu.Lock()
	g.playing = playing
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

const (
	lookCool = 10 * time.Second
	lookWarm = 2 * time.Second
)

// Run watches until ctx ends.
func (g *Governor) Run(ctx context.Context) error {
	var now State
	procs := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(procs)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		next := now
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		case <-t.C:
			next.Heat = read(g.o.Thermal, now.Heat)
			if next.Heat == Cool {
				t.Reset(lookCool)
			} else {
				t.Reset(lookWarm)
			}
		}
		g.mu.Lock()
		next.Playing = g.playing
		g.mu.Unlock()
		if next == now {
			continue
		}
		if next.Quiet() != now.Quiet() {
			limitProcs(next.Quiet(), procs)
		}
		g.tell(now.Heat, next.Heat)
		now = next
		g.o.Apply(now)
	}
}

// limitProcs leaves all processors but one to others.
func limitProcs(quiet bool, all int) {
	if quiet {
		all = 1
	}
	if runtime.GOMAXPROCS(0) != all {
		runtime.GOMAXPROCS(all)
	}
}

func (g *Governor) tell(before, now Heat) {
	if before == now {
		return
	}
	g.o.Log.Info("the box's temperature", "was", before.String(), "is", now.String())
	switch now {
	case Cool:
		g.o.Health.Clear(CodeHot)
	case Warm:
		g.o.Health.Raise(health.Warning{
			Code: CodeHot, Severity: health.Info, Text: "The box is warm; boxd works slowly.",
			Action: "Give the box more air if this comes often.",
		})
	case Hot:
		g.o.Health.Raise(health.Warning{
			Code: CodeHot, Severity: health.Warn, Text: "The box is hot; boxd fetches only what is being watched.",
			Action: "Give the box more air, and look at what else uses its processor.",
		})
	}
}
