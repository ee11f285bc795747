package operate

import (
	"context"
	"errors"
	"testing"
	"time"

	"boxd/internal/mqttwire"
)

// away stands for a database that cannot be reached.
func away() context.Context {
	gone, cancel := context.WithCancel(ctx)
	cancel()
	return gone
}

// While the database was away boxes went on talking: nobody is offline afterwards.
func TestAnOutageOfTheDatabaseIsNoneOfTheBoxes(t *testing.T) {
	d := newDesk(t)
	clock := now
	d.Fleet.now = func() time.Time { return clock }
	if err := d.o.Registry.PutBoxes(ctx, map[string]string{"box-a": DefaultGroup, "box-b": DefaultGroup}); err != nil {
		t.Fatal(err)
	}
	d.hear("box-a")
	d.hear("box-b")
	d.listening = clock.Add(-time.Hour)
	lives := func(box string) {
		d.Tele(mqttwire.Message{Topic: mqttwire.Topic{Box: box}, Received: clock})
	}
	for range 18 {
		clock = clock.Add(10 * time.Second)
		lives("box-a")
		lives("box-b")
		if err := d.flushSeen(away()); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	seen := clock
	online := func(box string, want bool) {
		t.Helper()
		if err := d.markSilent(ctx); err != nil {
			t.Fatal(err)
		}
		b, err := d.o.Registry.Box(ctx, box)
		if err != nil || b.Online != want {
			t.Errorf("%s is online: %t, %v", box, b.Online, err)
		}
	}
	clock = clock.Add(time.Second)
	online("box-a", true)
	if err := d.flushSeen(ctx); err != nil {
		t.Fatal(err)
	}
	if b, err := d.o.Registry.Box(ctx, "box-a"); err != nil || !b.LastSeen.Equal(seen) {
		t.Errorf("what was heard while the database was away is lost: seen %s, %v", b.LastSeen, err)
	}

	clock = clock.Add(silentAfter - time.Second)
	online("box-b", true) // a fleetd that could not write has not listened long enough
	lives("box-a")
	clock = clock.Add(time.Second)
	online("box-a", true)
	online("box-b", false)

	clock = clock.Add(10 * silentAfter)
	if err := d.Handle(away(), nil); err == nil {
		t.Fatal("a batch was committed")
	}
	online("box-a", true)
	clock = clock.Add(silentAfter + time.Second)
	lives("box-a") // only in memory
	online("box-a", true)
}
