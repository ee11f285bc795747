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

func TestOverWhichFamiliesAHostIsReached(t *testing.T) {
	t.Parallel()
	for host, want := range map[string][2]bool{
		"fleet.example": {true, true}, "192.0.2.1": {true, false}, "2001:db8::1": {false, true}, "::ffff:192.0.2.1": {true, false},
	} {
		if four, six := families(host); [2]bool{four, six} != want {
			t.Errorf("%s: %v, %v", host, four, six)
		}
	}
}
