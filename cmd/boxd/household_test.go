package main

import (
	"testing"

	"boxd/internal/cache"
)

func TestSpaceClass(t *testing.T) {
	const gib = 1 << 30
	for name, c := range map[string]struct {
		usage cache.Usage
		want  int
	}{
		"empty":                  {cache.Usage{Quota: 20 * gib, Reserve: gib, Free: 100 * gib}, 0},
		"quota nearly taken":     {cache.Usage{Used: 19 * gib, Quota: 20 * gib, Reserve: gib, Free: 100 * gib}, 1},
		"half full":              {cache.Usage{Used: 10 * gib, Quota: 20 * gib, Reserve: gib, Free: 100 * gib}, 0},
		"others fill the disk":   {cache.Usage{Used: 10 * gib, Quota: 20 * gib, Reserve: gib, Free: 3 * gib / 2}, 1},
		"no room at all":         {cache.Usage{Quota: 20 * gib, Reserve: gib, Free: gib / 2}, 1},
		"no quota":               {cache.Usage{Used: 10 * gib, Reserve: gib, Free: 100 * gib}, 0},
		"the disk does not tell": {cache.Usage{Used: gib, Quota: 20 * gib, Free: -1, Total: -1}, 0},
	} {
		if got := spaceClass(c.usage); got != c.want {
			t.Errorf("%s: class %d, want %d", name, got, c.want)
		}
	}
}
