package main

import (
	"testing"

	"boxd/internal/config"
)

func TestWhetherTheRouterLetsIn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*config.Config)
		want   bool
	}{
		"as it comes":        {func(*config.Config) {}, true},
		"no mapping":         {func(c *config.Config) { c.Swarm.PortMapping = false }, false},
		"transport insecure": {func(c *config.Config) { c.Swarm.Insecure = true }, false},
		"no uploads":         {func(c *config.Config) { c.Limits.UploadSlots = 0 }, false},
	} {
		cfg := config.Default()
		c.change(&cfg)
		if got := letsIn(&cfg); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
