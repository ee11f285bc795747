package main

import (
	"testing"

	"boxd/internal/config"
)

func TestPlayingMayBeKeptToTheWindows(t *testing.T) {
	c := config.Default()
	if fetchLimits(&c).PlaybackOff {
		t.Error("a box whose file says nothing does not open its line for players")
	}
	c.Schedule.PlayOutsideWindows = false
	if !fetchLimits(&c).PlaybackOff {
		t.Error("schedule.play_outside_windows = false changes nothing")
	}
}
