package broker

import (
	"runtime"
	"testing"
)

func TestMemoryIsGivenBackWhenItIsQuiet(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		trimmed   uint64
		last, now memorySample
		want      bool
	}{
		"after a storm":   {300 * mb, memorySample{allocated: 1000 * mb}, memorySample{allocated: 1010 * mb, held: 900 * mb}, true},
		"in a storm":      {300 * mb, memorySample{allocated: 1000 * mb}, memorySample{allocated: 1500 * mb, held: 900 * mb}, false},
		"nothing to gain": {800 * mb, memorySample{allocated: 1000 * mb}, memorySample{allocated: 1010 * mb, held: 900 * mb}, false},
		"it has shrunk":   {950 * mb, memorySample{allocated: 1000 * mb}, memorySample{allocated: 1010 * mb, held: 900 * mb}, false},
		"just started":    {0, memorySample{}, memorySample{allocated: 3 * mb, held: 4 * mb}, false},
	} {
		if got := worthTrimming(c.trimmed, c.last, c.now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	runtime.GC()
	if s := sampleMemory(); s.allocated == 0 || s.held == 0 || s.live == 0 {
		t.Errorf("the runtime says nothing: %+v", s)
	}
}

func TestCollectionsAreFewerUnderASteadyLoad(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		last, now memorySample
		want      int
	}{
		"steady load":      {memorySample{allocated: 100 * mb, live: 400 * mb}, memorySample{allocated: 900 * mb, live: 410 * mb}, 100},
		"boxes come":       {memorySample{allocated: 100 * mb, live: 400 * mb}, memorySample{allocated: 900 * mb, live: 500 * mb}, 50},
		"quiet":            {memorySample{allocated: 100 * mb, live: 400 * mb}, memorySample{allocated: 150 * mb, live: 400 * mb}, 50},
		"quiet, few boxes": {memorySample{allocated: 100 * mb, live: 4 * mb}, memorySample{allocated: 110 * mb, live: 4 * mb}, 50},
	} {
		if got := percent(c.last, c.now); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}
