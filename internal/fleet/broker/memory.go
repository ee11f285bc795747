package broker

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// After a storm of handshakes twice as much memory is in use as the boxes' connections need, and Go's collector, which goes by
// what is allocated, does not come back to it while a quiet fleet allocates next to nothing.
const (
	trimPeriod = 10 * time.Second
	trimLeast  = 16 << 20 // bytes that are worth a collection
	trimRounds = 3        // each collection halves the stacks that a handshake has made grow
	gcPercent  = 50
)

// memorySample is what the runtime says of its memory, in bytes.
type memorySample struct {
	allocated uint64 // ever
	held      uint64 // heap and stacks, from the system and not given back
}

func sampleMemory() memorySample {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
	}
	metrics.Read(s)
	out := memorySample{allocated: s[0].Value.Uint64()}
	for _, v := range s[1:] {
		out.held += v.Value.Uint64()
	}
	return out
}

// worthTrimming is true when much more is held than after the last time, and little was allocated since the last look: a
// busy heap is collected anyway, and would only take its memory back.
func worthTrimming(trimmed uint64, last, now memorySample) bool {
	return now.held > trimmed+max(trimLeast, trimmed/5) && now.allocated-last.allocated < max(trimLeast, now.held/4)
}

// TrimMemory keeps the process small, until ctx ends: it collects twice as often as Go does by default, unless GOGC says
// otherwise, so that a storm is not spread over as much memory, and gives back what a storm has left. It is meant for a
// whole process.
func TrimMemory(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tick := time.NewTicker(trimPeriod)
	defer tick.Stop()
	last, trimmed := sampleMemory(), uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := sampleMemory()
		if worthTrimming(trimmed, last, now) {
			for range trimRounds {
				runtime.GC()
			}
			debug.FreeOSMemory()
			now = sampleMemory()
			trimmed = now.held
		}
		last = now
	}
}
