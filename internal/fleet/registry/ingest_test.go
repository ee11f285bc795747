package registry_test

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// What is within the bounds of the wire is stored, though it is cut in the middle of a letter or counted beyond a column.
func testLongTextsAndGreatCountsAreTaken(t *testing.T, open opener) {
	g := open(clock)
	say := func(seq uint64, software string) mqttwire.Message {
		return report(t, "box-a", env("epoch-one", 1, seq), func(r *mqttwire.Reported) {
			r.Software, r.More = software, math.MaxInt32
			r.Assets = []mqttwire.AssetProgress{{ID: asset.ID{1}, State: mqttwire.Fetching, Size: 5}}
		})
	}
	m := msg(t, "box-a", "state", &mqttwire.State{Envelope: env("epoch-one", 1, 3), Online: true, Software: strings.Repeat("é", 200)})
	out := ingest(t, g, say(1, "xx"+strings.Repeat("é", 198)), m)
	if len(out.Seen) != 1 || out.Bad != 0 {
		t.Errorf("%+v", out)
	}
	lines, err := g.History(ctx, "box-a", 0, 10)
	if err != nil || len(lines) != 2 {
		t.Fatalf("%+v %v", lines, err)
	}
	for _, l := range lines {
		if !utf8.ValidString(l.Text) {
			t.Errorf("%q", l.Text)
		}
	}
}

// What the database refuses for a reason that nobody thought of costs that message alone.
func testOneBadMessageIsDroppedAlone(t *testing.T, open opener) {
	g := open(clock)
	if err := g.RefuseHistory(ctx, "erased"); err != nil {
		t.Fatal(err)
	}
	out := ingest(t, g, arrival(t, "box-a", "epoch-one", 1, 1, "arrived"), arrival(t, "box-b", "epoch-one", 1, 1, "erased"),
		arrival(t, "box-c", "epoch-one", 1, 1, "arrived"))
	if out.Bad != 1 || len(out.Dropped) != 1 || out.Dropped[0].Topic.Box != "box-b" || out.New != 2 || len(out.Acks) != 2 {
		t.Errorf("%+v", out)
	}
	n := 0
	if err := g.EachProof(ctx, registry.ProofFilter{}, func(registry.Proof) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d proofs, %v", n, err)
	}
}
