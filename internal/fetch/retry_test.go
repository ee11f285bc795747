package fetch

import (
	"log/slog"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// counted is a store of which only the number of pieces is known.
type counted struct {
	Asset
	have int
}

func (c *counted) HaveCount() int { return c.have }

// A store that fails is tried less and less, until a piece gets through; a player waits for seconds, not for minutes.
func TestAStoreThatFailedIsTriedAgain(t *testing.T) {
	store := &counted{have: 7}
	it := &item{id: asset.ID{1}, store: store, runs: map[*originRun]bool{}}
	f := &Fetcher{
		o:     Options{Health: health.New(nil), Taken: func(error) bool { return false }},
		items: map[asset.ID]*item{it.id: it}, log: slog.New(slog.DiscardHandler),
	}
	mono := time.Unix(1e6, 0)
	fail := func() time.Duration {
		f.fail(it.id, syscall.ENOSPC, mono)
		return it.retryAt.Sub(mono)
	}
	fail()
	for last := time.Duration(0); last < 10*time.Minute; {
		next := fail()
		if next <= last {
			t.Fatalf("after %v it is tried again after %v", last, next)
		}
		last = next
	}
	rests := func(after time.Duration) bool { return f.rests(it, mono.Add(after)) }
	if !rests(9 * time.Minute) {
		t.Error("it is tried before its time, and nobody waits")
	}
	it.demand = []Span{{First: 1, End: 2, Soon: true}}
	if !rests(playerRetry-time.Millisecond) || rests(playerRetry) {
		t.Error("a player waits for another time than it should")
	}
	it.demand = nil
	store.have++
	if next := fail(); next > 5*time.Second {
		t.Errorf("after a piece it is tried again after %v", next)
	}
}
