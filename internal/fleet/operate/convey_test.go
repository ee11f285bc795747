package operate

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

// bus keeps what is sent.
type bus struct{ sent [][]byte }

func (b *bus) Send(_ string, payload []byte) error { b.sent = append(b.sent, payload); return nil }
func (*bus) Retain(string, []byte) error           { return nil }
func (*bus) Kick(string) (int, error)              { return 0, nil }

// A wish for one box is signed again before it ends: a box that lost its state takes it, however long ago it was wished.
func TestAWishIsSignedAgainBeforeItEnds(t *testing.T) {
	d := newDesk(t)
	sent := &bus{}
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	d.o.Bus, d.o.OpsKey = sent, key
	clock := now
	d.Fleet.now = func() time.Time { return clock }
	if err := d.o.Registry.PutBoxes(ctx, map[string]string{"box-a": DefaultGroup, "box-b": DefaultGroup}); err != nil {
		t.Fatal(err)
	}
	paused := true
	for _, box := range []string{"box-a", "box-b"} {
		if _, err := d.SetConfig(ctx, "test", box, &mqttwire.Config{Paused: &paused}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.renewWishes(ctx, 10); err != nil || d.wants["box-a"].Version != 1 {
		t.Errorf("signed again at once: %d, %v", d.wants["box-a"].Version, err)
	}
	if err := d.o.Registry.DeleteDoc(ctx, tableWishes, "box-b"); err != nil { // another fleetd has forgotten it
		t.Fatal(err)
	}
	clock = clock.Add(61 * 24 * time.Hour)
	if err := d.renewWishes(ctx, 10); err != nil {
		t.Fatal(err)
	}
	if c, _, err := d.Config(ctx, "box-b"); err != nil || c != nil || len(d.wants) != 1 {
		t.Errorf("what was forgotten is wished again: %+v, %v", c, err)
	}
	d.hear("box-a") // it has version 0
	if err := d.resend(ctx); err != nil {
		t.Fatal(err)
	}
	if len(sent.sent) != 1 {
		t.Fatalf("%d messages", len(sent.sent))
	}
	_, err = ops.Verify([]ed25519.PublicKey{pub}, sent.sent[0], ops.Box{Fleet: "f", ID: "box-a", Groups: []string{DefaultGroup}}, clock)
	if c, v, err2 := d.Config(ctx, "box-a"); err != nil || err2 != nil || v != 2 || c == nil || !*c.Paused {
		t.Errorf("version %d, %+v: %v, %v", v, c, err, err2)
	}
}

// Boxes that never take a wish do not keep it from the others, however many they are.
func TestAllThatAreBehindAreTold(t *testing.T) {
	d := newDesk(t)
	for _, box := range []string{"box-e", "box-c", "box-a", "box-d", "box-b"} {
		if err := d.o.Registry.PutBox(ctx, box, DefaultGroup); err != nil {
			t.Fatal(err)
		}
		d.hear(box)
	}
	group := wish{Target: ops.GroupPrefix + DefaultGroup, Version: 7}
	told := func(w wish, most int, want ...string) {
		t.Helper()
		if got, err := d.nextBehind(ctx, w, most); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	for range 2 {
		told(group, 2, "box-a", "box-b")
		told(wish{Target: "box-c", Version: 7}, 2, "box-c") // another wish has its own turn
		told(group, 2, "box-c", "box-d")
		told(group, 2, "box-e")
	}
	told(group, 5, "box-a", "box-b", "box-c", "box-d", "box-e")
	told(group, 5, "box-a", "box-b", "box-c", "box-d", "box-e") // there was none after the last
	told(wish{Target: "box-c"}, 2)
}

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
