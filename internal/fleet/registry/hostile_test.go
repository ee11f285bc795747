package registry_test

import (
	"fmt"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// A box that lies about lengths spoils no sum, and no honest box's proof.
func testSumsDoNotOverflow(t *testing.T, open opener) {
	g := open(clock)
	lie := func(n uint64, size, lan int64) mqttwire.Message {
		return msg(t, "evil", mqttwire.EventTail(n), &mqttwire.Event{
			Envelope: env("epochepoch", 1, n), Evt: n, Kind: "arrived", Asset: asset.ID{9}, Publisher: "acme", Campaign: "night",
			Size: size, At: at.Add(time.Duration(n) * time.Second), From: mqttwire.Traffic{LAN: lan},
		})
	}
	ingest(t, g, lie(1, mqttwire.MaxAsset, mqttwire.MaxBytes))
	if err := g.Inflate(ctx); err != nil { // as many such lies as it takes
		t.Fatal(err)
	}
	out := ingest(t, g, lie(2, mqttwire.MaxAsset, 5), arrival(t, "good", "goodgood", 1, 9, "arrived"))
	if len(out.Acks) != 2 || out.Bad != 0 {
		t.Errorf("%+v", out)
	}
	lines, err := g.Statement(ctx, registry.ProofFilter{Publisher: "acme"})
	if err != nil || len(lines) != 1 || lines[0].Bytes != 1<<62 || lines[0].LAN < mqttwire.MaxAsset || lines[0].LAN > 1<<44 {
		t.Errorf("statement: %+v, %v", lines, err)
	}
	series, err := g.ArrivalSeries(ctx, nil, "", at.Add(-time.Hour), at.Add(time.Hour), time.Minute)
	if err != nil || len(series) != 1 || series[0].Length != 1<<62 || series[0].Boxes != 3 {
		t.Errorf("series: %+v, %v", series, err)
	}
	if _, err := g.Groups(ctx); err != nil {
		t.Error(err)
	}
	if err := g.Prune(ctx, registry.Keep{Minutes: at.Add(24 * time.Hour)}); err != nil {
		t.Error(err)
	}
}

// An export goes page by page: while its reader does nothing, everybody else reads and writes.
func testASlowReaderOfProofsStopsNobody(t *testing.T, open opener) {
	g := open(clock)
	const n = 4500
	var batch []mqttwire.Message
	for i := range uint64(n) {
		batch = append(batch, arrival(t, fmt.Sprintf("box-%d", i%7), "epoch-one", i+1, byte(i%200)+1, "arrived"))
	}
	ingest(t, g, batch...)
	var read func(depth int) // exports within exports: more than there are connections
	seen := map[string]bool{}
	read = func(depth int) {
		count := 0
		err := g.EachProof(ctx, registry.ProofFilter{}, func(p registry.Proof) error {
			if count++; count == 1 && depth < 20 {
				read(depth + 1)
			}
			if depth == 0 {
				seen[fmt.Sprintf("%s %d", p.Box, p.Evt)] = true
			}
			return nil
		})
		if err != nil || count < n {
			t.Fatalf("%d proofs at depth %d, %v", count, depth, err)
		}
	}
	read(0)
	if len(seen) != n {
		t.Errorf("%d different proofs", len(seen))
	}
	for limit, want := range map[int]int{1: 1, 2000: 2000, 2001: 2001, n + 1: n} {
		count := 0
		if err := g.EachProof(ctx, registry.ProofFilter{Limit: limit}, func(registry.Proof) error { count++; return nil }); err != nil ||
			count != want {
			t.Errorf("limit %d: %d proofs, %v", limit, count, err)
		}
	}
}

// One box cannot fill the database: beyond a day's worth its proofs are neither stored nor acknowledged, and nothing of its
// history is written. Other boxes, and what is known already, are taken as ever.
func testABoxCannotFillTheDatabase(t *testing.T, open opener) {
	now := at
	g := open(func() time.Time { return now })
	const perDay = 5000
	seq := uint64(0)
	flood := func(n int) []mqttwire.Message {
		var batch []mqttwire.Message
		for range n {
			seq++
			m := arrival(t, "evil", "epoch-one", seq, byte(seq%200)+1, "arrived")
			m.Received = now
			batch = append(batch, m)
		}
		return batch
	}
	var first []mqttwire.Message
	stored := 0
	for range 6 {
		batch := flood(1000)
		out := ingest(t, g, batch...)
		if first == nil {
			first = batch
		}
		if stored += out.New; out.New != len(out.Acks) || (stored == perDay) != (len(out.Over) == 1) && stored < perDay {
			t.Fatalf("%d new, %d acknowledged, over: %v", out.New, len(out.Acks), out.Over)
		}
	}
	if stored != perDay {
		t.Errorf("%d proofs of one box were stored", stored)
	}
	if out := ingest(t, g, first...); len(out.Acks) != len(first) || out.New != 0 {
		t.Errorf("known proofs: %d acknowledged, %d new", len(out.Acks), out.New)
	}
	if out := ingest(t, g, arrival(t, "good", "good-epoch", 1, 9, "arrived")); out.New != 1 || len(out.Over) != 0 {
		t.Errorf("another box: %+v", out)
	}
	lines, err := g.History(ctx, "evil", 0, 5000)
	if err != nil || len(lines) != 2000 || lines[0].Kind != "too-many-lines" {
		t.Errorf("%d lines of history, %v", len(lines), err)
	}
	now = now.Add(12 * time.Hour)
	if out := ingest(t, g, flood(4000)...); out.New != perDay/2 || len(out.Over) != 1 {
		t.Errorf("half a day later: %d new, over: %v", out.New, out.Over)
	}
}
