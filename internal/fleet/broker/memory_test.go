package broker

import "testing"

func TestMemoryIsGivenBackWhenItIsQuiet(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		trimmed   uint64
		last, now memorySample
		want      bool
	}{
		"after a storm":   {300 * mb, memorySample{1000 * mb, 0}, memorySample{1010 * mb, 900 * mb}, true},
		"in a storm":      {300 * mb, memorySample{1000 * mb, 0}, memorySample{1500 * mb, 900 * mb}, false},
		"nothing to gain": {800 * mb, memorySample{1000 * mb, 0}, memorySample{1010 * mb, 900 * mb}, false},
		"it has shrunk":   {950 * mb, memorySample{1000 * mb, 0}, memorySample{1010 * mb, 900 * mb}, false},
		"just started":    {0, memorySample{}, memorySample{3 * mb, 4 * mb}, false},
	} {
		if got := worthTrimming(c.trimmed, c.last, c.now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if s := sampleMemory(); s.allocated == 0 || s.held == 0 {
		t.Errorf("the runtime says nothing: %+v", s)
	}
}
