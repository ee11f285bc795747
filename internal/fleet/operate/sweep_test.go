package operate

import (
	"testing"
	"time"
)

// What a removed publisher has left at the origin goes after a month, and not before; what another has too stays.
func TestCopiesThatNothingNamesGoAfterAMonth(t *testing.T) {
	d := newDesk(t)
	began := time.Now()
	later := func(box string, days int) {
		t.Helper()
		d.Fleet.now = func() time.Time { return began.Add(time.Duration(days) * 24 * time.Hour) }
		d.hear(box) // so that the clock is right
		if err := d.sweepOrigin(ctx); err != nil {
			t.Fatal(err)
		}
	}
	mine, _ := d.twins()
	own, err := d.Publish(ctx, "aaa", PublishRequest{Source: d.file("own.mp4", "nobody else has these"), Publisher: "aaa"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.RemovePublisher(ctx, "test", "aaa", false); err != nil {
		t.Fatal(err)
	}
	later("box-a", 0)
	later("box-b", 29)
	if names := d.copies(); len(names) != 2 {
		t.Fatalf("at the origin: %v", names)
	}
	later("box-c", 31)
	if names := d.copies(); len(names) != 1 || names[0] != mine.ID.String() {
		t.Errorf("at the origin: %v, want %s alone, without %s", names, mine.ID, own.ID)
	}

	// One that is named again in time begins anew.
	if _, err := d.RemovePublisher(ctx, "test", "victim", false); err != nil {
		t.Fatal(err)
	}
	later("box-d", 32)
	if _, err := d.Publish(ctx, "op", PublishRequest{Source: d.file("film.mp4", "the same bytes")}); err != nil {
		t.Fatal(err)
	}
	later("box-e", 70)
	if names := d.copies(); len(names) != 1 {
		t.Errorf("at the origin: %v, though it is published again", names)
	}
}
