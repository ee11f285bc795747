package fetch

import (
	"testing"
	"time"
)

func TestALineIsBelievedSlowerOnlyWhenItIsAskedForAllItHas(t *testing.T) {
	now := time.Unix(1e9, 0)
	m := meter{best: 6e6, believed: now}
	for range 10 { // ten seconds of a swarm that has little to give
		now = now.Add(time.Second)
		m.believe(1e5, now, false)
	}
	if m.best < 4.5e6 {
		t.Errorf("believed %.1f MB/s after ten seconds of little", m.best/1e6)
	}
	for range 300 {
		now = now.Add(time.Second)
		m.believe(1e5, now, false)
	}
	if m.best > 2e5 {
		t.Errorf("still believed %.1f MB/s after five minutes", m.best/1e6)
	}
	m.believe(6e6, now, false)
	if m.best != 6e6 {
		t.Errorf("more was seen, and %.1f MB/s believed", m.best/1e6)
	}
	m.believe(2e6, now, true)
	if m.best != 2e6 {
		t.Errorf("all of the line was asked for and gave 2 MB/s; believed %.1f", m.best/1e6)
	}
}
