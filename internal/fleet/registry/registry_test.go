package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/fleettest"
	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

var ctx = context.Background()

// TestOnSQLite and TestOnPostgres run the same tests on both stores; one server serves them all.
func TestOnSQLite(t *testing.T) {
	for name, f := range common {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "fleet.db")
			f(t, func(now func() time.Time) *registry.Registry { return open(t, registry.Options{Path: path, Now: now}) })
		})
	}
}

func TestOnPostgres(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	server := fleettest.StartPostgres(t)
	for name, f := range common {
		t.Run(name, func(t *testing.T) {
			onPostgres(t, server, f)
		})
	}
	t.Run("OneBadMessageIsDroppedAlone", func(t *testing.T) { // SQLite takes any value
		onPostgres(t, server, testOneBadMessageIsDroppedAlone)
	})
}

func onPostgres(t *testing.T, server *fleettest.Postgres, f func(*testing.T, opener)) {
	t.Helper()
	url := server.NewDatabase(t)
	f(t, func(now func() time.Time) *registry.Registry { return open(t, registry.Options{URL: url, Now: now}) })
}

var common = map[string]func(*testing.T, opener){
	"AProofCountsOnceHoweverOftenItComes":    testAProofCountsOnceHoweverOftenItComes,
	"PresenceIgnoresLateWillsAndOldMessages": testPresenceIgnoresLateWillsAndOldMessages,
	"ReportsOverwriteOnlyOlderOnes":          testReportsOverwriteOnlyOlderOnes,
	"NonsenseIsCountedAndStopsNobody":        testNonsenseIsCountedAndStopsNobody,
	"WhatNoStoreTakesStopsNobody":            testWhatNoStoreTakesStopsNobody,
	"LongTextsAndGreatCountsAreTaken":        testLongTextsAndGreatCountsAreTaken,
	"CommandsAreSentUntilAnsweredOrExpired":  testCommandsAreSentUntilAnsweredOrExpired,
	"SeveralWritersShareTheWork":             testSeveralWritersShareTheWork,
	"ALeaseHasOneHolderAndAFence":            testALeaseHasOneHolderAndAFence,
	"AClockThatWasAheadIsForgotten":          testAClockThatWasAheadIsForgotten,
	"PruningGoesOnBehindAClockThatWasAhead":  testPruningGoesOnBehindAClockThatWasAhead,
	"SeveralMayPruneAtOnce":                  testSeveralMayPruneAtOnce,
	"APrefixFindsAllThatBeginWithIt":         testAPrefixFindsAllThatBeginWithIt,
	"OldRecordsAreForgotten":                 testOldRecordsAreForgotten,
	"SumsDoNotOverflow":                      testSumsDoNotOverflow,
	"ABoxCannotFillTheDatabase":              testABoxCannotFillTheDatabase,
	"ASlowReaderOfProofsStopsNobody":         testASlowReaderOfProofsStopsNobody,
	"StandingOfAGroup":                       testStandingOfAGroup,
	"SilentBoxesAreOffline":                  testSilentBoxesAreOffline,
	"NobodysProofsAreAttributed":             testNobodysProofsAreAttributed,
}

type opener func(now func() time.Time) *registry.Registry

func open(t testing.TB, o registry.Options) *registry.Registry {
	t.Helper()
	g, err := registry.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

var at = time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)

func clock() time.Time { return at }

func env(epoch string, sid, seq uint64) mqttwire.Envelope {
	return mqttwire.Envelope{V: 1, Epoch: epoch, SID: sid, Seq: seq, TS: at}
}

func msg(t *testing.T, box, tail string, payload mqttwire.Checker) mqttwire.Message {
	t.Helper()
	topic, err := mqttwire.ParseTopic(mqttwire.BoxTopic("f", box, tail))
	if err != nil {
		t.Fatal(err)
	}
	data, err := mqttwire.Encode(mqttwire.MaxPayload, payload)
	if err != nil {
		t.Fatal(err)
	}
	return mqttwire.Message{Topic: topic, Payload: data, Received: at}
}

func state(t *testing.T, box string, e mqttwire.Envelope, online bool) mqttwire.Message {
	return msg(t, box, "state", &mqttwire.State{Envelope: e, Online: online})
}

func arrival(t *testing.T, box, epoch string, n uint64, id byte, kind string) mqttwire.Message {
	return msg(t, box, mqttwire.EventTail(n), &mqttwire.Event{
		Envelope: env(epoch, 1, n), Evt: n, Kind: kind, Asset: asset.ID{id}, Publisher: "acme", Campaign: "night", Size: 100,
		From: mqttwire.Traffic{LAN: 60, Peer: 30, Origin: 10}, At: at.Add(time.Duration(n) * time.Second),
	})
}

func ingest(t *testing.T, g *registry.Registry, msgs ...mqttwire.Message) registry.Ingested {
	t.Helper()
	out, err := g.Ingest(ctx, msgs)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func testAProofCountsOnceHoweverOftenItComes(t *testing.T, open opener) {
	g := open(clock)
	if err := g.PutBox(ctx, "box-a", "living"); err != nil {
		t.Fatal(err)
	}
	first := arrival(t, "box-a", "epoch-one", 1, 7, "arrived")
	out := ingest(t, g, first, first, arrival(t, "box-a", "epoch-one", 2, 8, "arrived"))
	if len(out.Acks) != 3 || out.New != 2 {
		t.Errorf("%+v", out)
	}
	// A restored state file proves the same arrival under a new epoch: acknowledged, and not counted again.
	again := arrival(t, "box-a", "epoch-two", 1, 7, "arrived")
	if out := ingest(t, g, first, again); len(out.Acks) != 2 || out.New != 0 {
		t.Errorf("%+v", out)
	}
	// The same number with another content is another event.
	if out := ingest(t, g, arrival(t, "box-a", "epoch-one", 2, 9, "arrived")); out.New != 1 {
		t.Errorf("%+v", out)
	}
	n := 0
	if err := g.EachProof(
		ctx,
		registry.ProofFilter{Kind: "arrived"},
		func(registry.Proof) error { n++; return nil },
	); err != nil ||
		n != 3 {
		t.Errorf("%d proofs, %v", n, err)
	}
	lines, err := g.Statement(ctx, registry.ProofFilter{Publisher: "acme"})
	if err != nil || len(lines) != 3 || lines[0].Delivered != 1 || lines[0].LAN != 60 || lines[0].Bytes != 100 {
		t.Errorf("%+v, %v", lines, err)
	}
	ingest(t, g, arrival(t, "box-a", "epoch-one", 3, 7, "erased"))
	box, err := g.Box(ctx, "box-a")
	if err != nil || len(box.Ready) != 2 {
		t.Errorf("%+v, %v", box.Ready, err)
	}
	counts, err := g.CountAsset(ctx, "living", asset.ID{8}.String())
	if err != nil || counts.Boxes != 1 || counts.Ready != 1 {
		t.Errorf("%+v, %v", counts, err)
	}
}

func testPresenceIgnoresLateWillsAndOldMessages(t *testing.T, open opener) {
	g := open(clock)
	will := func(epoch string, sid uint64) mqttwire.Message { return state(t, "box-a", env(epoch, sid, 0), false) }
	for i, step := range []struct {
		msg    mqttwire.Message
		online bool
	}{
		{state(t, "box-a", env("epoch-one", 1, 1), true), true},
		{will("epoch-one", 1), false},
		{state(t, "box-a", env("epoch-one", 2, 1), true), true},
		{will("epoch-one", 1), true},                              // of the session before, late
		{will("epoch-old", 9), true},                              // of a state file that is gone
		{state(t, "box-a", env("epoch-one", 1, 5), false), true},  // an old goodbye
		{state(t, "box-a", env("epoch-one", 2, 9), false), false}, // the goodbye
		{state(t, "box-a", env("epoch-new", 1, 1), true), true},   // a new state file begins anew
		{state(t, "box-a", env("epoch-new", 1, 1), true), true},   // delivered twice
		{will("epoch-new", 1), false},
	} {
		ingest(t, g, step.msg)
		box, err := g.Box(ctx, "box-a")
		if err != nil || box.Online != step.online {
			t.Fatalf("step %d: online %t, %v", i, box.Online, err)
		}
	}
	history, err := g.History(ctx, "box-a", 0, 100)
	if err != nil || len(history) < 6 || history[0].Kind != "offline" {
		t.Errorf("%+v, %v", history, err)
	}
}

func report(t *testing.T, box string, e mqttwire.Envelope, change func(*mqttwire.Reported)) mqttwire.Message {
	r := &mqttwire.Reported{Envelope: e, Software: "1", ClockTrusted: true, Disk: mqttwire.Disk{Quota: 1 << 40, Free: 1 << 40}}
	if change != nil {
		change(r)
	}
	return msg(t, box, "reported", r)
}

func testReportsOverwriteOnlyOlderOnes(t *testing.T, open opener) {
	g := open(clock)
	version := func(v int64) func(*mqttwire.Reported) { return func(r *mqttwire.Reported) { r.DesiredVersion = v } }
	out := ingest(
		t,
		g,
		report(t, "box-a", env("epoch-one", 2, 5), version(5)),
		report(t, "box-a", env("epoch-one", 2, 4), version(4)),
		report(t, "box-a", env("epoch-one", 1, 99), version(1)),
	)
	box, err := g.Box(ctx, "box-a")
	if err != nil || box.Desired != 5 || out.Stale != 2 || !box.Online {
		t.Errorf("%+v %+v %v", box, out, err)
	}
	ingest(t, g, report(t, "box-a", env("epoch-one", 3, 1), func(r *mqttwire.Reported) {
		r.Health = []mqttwire.Warning{{Code: "disk-low", Severity: "warning", Text: "little", Since: at}}
		r.Assets = []mqttwire.AssetProgress{
			{ID: asset.ID{1}, State: mqttwire.Failed, Code: "io", Size: 5},
			{ID: asset.ID{2}, State: mqttwire.Fetching, Size: 5, Late: true},
		}
	}))
	counts, err := g.CountAsset(ctx, "", asset.ID{1}.String())
	if err != nil || counts.States["failed"] != 1 {
		t.Errorf("%+v %v", counts, err)
	}
	alerts, err := g.FindAlerts(
		ctx,
		registry.AlertRules{OfflineBefore: at.Add(-time.Hour), MaxSkew: time.Minute, MinFree: 1 << 20},
	)
	if err != nil || len(alerts) != 2 {
		t.Errorf("%+v %v", alerts, err)
	}
	ingest(t, g, report(t, "box-a", env("epoch-one", 3, 2), nil))
	if alerts, err = g.FindAlerts(
		ctx,
		registry.AlertRules{OfflineBefore: at.Add(-time.Hour), MaxSkew: time.Minute},
	); err != nil ||
		len(alerts) != 0 {
		t.Errorf("%+v %v", alerts, err)
	}
}

func testNonsenseIsCountedAndStopsNobody(t *testing.T, open opener) {
	g := open(clock)
	bad := state(t, "box-a", env("epoch-one", 1, 1), true)
	var batch []mqttwire.Message
	nonsense := []string{
		"", "{", "null", `{"v":9}`, strings.Repeat("x", 100_000), `{"v":1,"epoch":"x'; DROP TABLE boxes; --"}`,
	}
	for _, payload := range nonsense {
		for _, kind := range []mqttwire.Kind{mqttwire.KindState, mqttwire.KindReported, mqttwire.KindEvent, mqttwire.KindCmdAck} {
			m := bad
			m.Payload, m.Topic.Kind = []byte(payload), kind
			batch = append(batch, m)
		}
	}
	out := ingest(t, g, append(batch, state(t, "box-b", env("epoch-one", 1, 1), true))...)
	if out.Bad != len(batch) || len(out.Seen) != 1 {
		t.Errorf("%+v", out)
	}
	if _, err := g.Box(ctx, "box-a"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("nonsense made a box: %v", err)
	}
}

// testWhatNoStoreTakesStopsNobody: one box must not keep the messages of all from being committed, nor the sums from being
// made, by a text that PostgreSQL refuses or a number that no column or sum holds.
func testWhatNoStoreTakesStopsNobody(t *testing.T, open opener) {
	g := open(clock)
	const head = `{"v":1,"epoch":"epoch-one","sid":1,"seq":1,"ts":"2026-11-23T01:00:00Z",`
	id := strings.Repeat("ab", 20)
	var batch []mqttwire.Message
	for _, p := range []struct{ tail, rest string }{
		{"state", `"online":true,"software":"a\u0000b"}`},
		{"reported", `"software":"1","holdings":{"count":4294967296},"traffic":{},"disk":{}}`},
		{"reported", `"software":"1","holdings":{},"traffic":{},"disk":{},"assets":[{"id":"` + id + `","state":"failed","verified":0,` +
			`"length":1,"bytes":{}},{"id":"` + id + `","state":"fetching","verified":0,"length":1,"bytes":{}}]}`},
		{"reported", `"software":"1","holdings":{},"more":4294967296,"traffic":{},"disk":{}}`},
		{"reported", `"software":"1","holdings":{},"traffic":{"lan":9223372036854775807},"disk":{}}`},
		{"evt/1", `"evt":1,"kind":"arrived","asset":"` + id + `","name":"\u0000","length":1,"bytes":{}}`},
		{"evt/1", `"evt":1,"kind":"arrived","asset":"` + id + `","length":9223372036854775807,"bytes":{}}`},
		{"evt/1", `"evt":1,"kind":"arrived","asset":"` + id + `","length":1,"bytes":{"peer":9223372036854775807}}`},
		{"evt/1", `"evt":18446744073709551615,"kind":"arrived","asset":"` + id + `","length":1,"bytes":{}}`},
	} {
		for _, box := range []string{"box-a", "box-b"} {
			topic, err := mqttwire.ParseTopic(mqttwire.BoxTopic("f", box, p.tail))
			if err != nil {
				t.Fatal(err)
			}
			batch = append(batch, mqttwire.Message{Topic: topic, Payload: []byte(head + p.rest), Received: at})
		}
	}
	out := ingest(t, g, append(batch, state(t, "box-c", env("epoch-one", 1, 1), true))...)
	if out.Bad != len(batch) || len(out.Seen) != 1 {
		t.Errorf("%+v, want %d bad", out, len(batch))
	}
	if groups, err := g.Groups(ctx); err != nil || len(groups) != 1 || groups[0].Online != 1 {
		t.Errorf("groups %+v, %v", groups, err)
	}
	if _, err := g.Statement(ctx, registry.ProofFilter{}); err != nil {
		t.Error(err)
	}
}

func testCommandsAreSentUntilAnsweredOrExpired(t *testing.T, open opener) {
	now := at
	g := open(func() time.Time { return now })
	ingest(t, g, state(t, "box-a", env("epoch-one", 1, 1), true))
	ingest(t, g, state(t, "box-b", env("epoch-one", 1, 1), true), state(t, "box-b", env("epoch-one", 1, 0), false))
	c := registry.Command{ID: "c1", Target: "group:living", Name: "verify", Created: now, Expires: now.Add(time.Hour), Who: "me"}
	if err := g.AddCommand(ctx, c, map[string][]byte{"box-a": []byte("a"), "box-b": []byte("b")}); err != nil {
		t.Fatal(err)
	}
	due := func(box string) int {
		list, err := g.DueCommands(ctx, box, now.Add(-30*time.Second), 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := due(""); n != 1 {
		t.Errorf("%d due: only box-a is online", n)
	}
	if n := due(""); n != 0 {
		t.Errorf("%d due right after it was sent", n)
	}
	now = now.Add(time.Minute)
	if n := due(""); n != 1 {
		t.Errorf("%d due after a minute without an answer", n)
	}
	answer := &mqttwire.CommandAck{
		Envelope: env("epoch-one", 1, 9),
		Evt:      4,
		ID:       "c1",
		Name:     "verify",
		Status:   "done",
		Data:     json.RawMessage(`{"bad":0}`),
	}
	out := ingest(t, g, msg(t, "box-a", "cmd/c1/ack", answer))
	late := &mqttwire.CommandAck{Envelope: env("epoch-one", 1, 3), ID: "c1", Status: "accepted"}
	ingest(t, g, msg(t, "box-a", "cmd/c1/ack", late))
	now = now.Add(time.Minute)
	if len(out.Acks) != 1 || due("") != 0 {
		t.Errorf("acks %v: an answered command is due again", out.Acks)
	}
	ingest(t, g, state(t, "box-b", env("epoch-one", 2, 1), true))
	if n := due("box-b"); n != 1 {
		t.Errorf("%d due for a box that came back", n)
	}
	now = now.Add(2 * time.Hour)
	got, err := g.Command(ctx, "c1")
	if err != nil || due("") != 0 || got.Counts["done"] != 1 || got.Counts["expired"] != 1 {
		t.Errorf("%+v %v", got.Counts, err)
	}
}

func testSeveralWritersShareTheWork(t *testing.T, open opener) {
	a := open(clock)
	b := a
	if a.Postgres() {
		b = open(clock)
	}
	var wg sync.WaitGroup
	for w, g := range []*registry.Registry{a, b, a, b} {
		wg.Go(func() {
			for i := range 20 {
				var batch []mqttwire.Message
				for box := range 15 {
					id := fmt.Sprintf("box-%d", (box*7+w)%15)
					n := uint64(i*4 + w + 1) //nolint:gosec // a small number
					batch = append(batch, arrival(t, id, "epoch-one", n, byte(n), "arrived"), report(t, id, env("epoch-one", 1, n), nil))
				}
				if _, err := g.Ingest(ctx, batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	if err := a.EachProof(ctx, registry.ProofFilter{}, func(registry.Proof) error { n++; return nil }); err != nil || n != 15*80 {
		t.Errorf("%d proofs of %d, %v", n, 15*80, err)
	}
}

func testALeaseHasOneHolderAndAFence(t *testing.T, open opener) {
	now := at
	g := open(func() time.Time { return now })
	take := func(who string) (int64, bool) {
		fence, ok, err := g.Lease(ctx, "lead", who, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return fence, ok
	}
	f1, ok1 := take("one")
	_, ok2 := take("two")
	now = now.Add(15 * time.Second)
	f1b, ok1b := take("one")
	now = now.Add(21 * time.Second)
	f2, ok3 := take("two")
	_, ok4 := take("one")
	if !ok1 || ok2 || !ok1b || f1b != f1 || !ok3 || f2 <= f1 || ok4 {
		t.Errorf("%t %t %t %d %d %t %d %t", ok1, ok2, ok1b, f1, f1b, ok3, f2, ok4)
	}
}

func testSilentBoxesAreOffline(t *testing.T, open opener) {
	now := at
	g := open(func() time.Time { return now })
	ingest(t, g, state(t, "box-a", env("epoch-one", 1, 1), true), state(t, "box-b", env("epoch-one", 1, 1), true))
	touch := func(box string, when time.Time) {
		t.Helper()
		if err := g.Touch(ctx, map[string]time.Time{box: when}); err != nil {
			t.Fatal(err)
		}
	}
	touch("box-b", at.Add(time.Minute))
	now = at.Add(2 * time.Minute)
	if n, err := g.MarkSilent(ctx, at.Add(time.Second)); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	online := func(box string, want bool) {
		t.Helper()
		if b, err := g.Box(ctx, box); err != nil || b.Online != want {
			t.Errorf("%s is online: %t, %v", box, b.Online, err)
		}
	}
	online("box-a", false)
	online("box-b", true)
	touch("box-a", now.Add(-time.Second)) // heard before it was taken to be offline
	online("box-a", false)
	touch("box-a", now.Add(time.Second))
	online("box-a", true)
	lines, err := g.History(ctx, "box-a", 0, 10)
	if err != nil || len(lines) != 3 || lines[0].Kind != "online" || !lines[0].At.Equal(now.Add(time.Second)) {
		t.Errorf("%+v, %v", lines, err)
	}
}

// A full disk: the batch is refused as a whole, nothing is acknowledged, and afterwards it goes in.
func TestAFullDiskAcknowledgesNothing(t *testing.T) {
	g := open(t, registry.Options{Path: filepath.Join(t.TempDir(), "fleet.db"), Now: clock})
	if err := g.LimitPages(ctx, 60); err != nil {
		t.Fatal(err)
	}
	var n uint64
	var full error
	for full == nil && n < 20_000 {
		var batch []mqttwire.Message
		for range 50 {
			n++
			batch = append(batch, arrival(t, "box-a", "epoch-one", n, byte(n), "arrived"))
		}
		var out registry.Ingested
		if out, full = g.Ingest(ctx, batch); full != nil && len(out.Acks) != 0 {
			t.Errorf("%d acknowledgements of a batch that failed", len(out.Acks))
		}
	}
	if full == nil || !strings.Contains(full.Error(), "full") {
		t.Fatalf("the disk never became full: %v", full)
	}
	count := 0
	if err := g.EachProof(
		ctx,
		registry.ProofFilter{},
		func(registry.Proof) error { count++; return nil },
	); err != nil ||
		uint64(count) != n-50 { //nolint:gosec // a count
		t.Errorf("%d proofs, want %d: %v", count, n-50, err)
	}
	if err := g.LimitPages(ctx, 1<<30); err != nil {
		t.Fatal(err)
	}
	if out := ingest(t, g, arrival(t, "box-a", "epoch-one", n, byte(n), "arrived")); out.New != 1 {
		t.Errorf("%+v", out)
	}
}

func TestANewerDatabaseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	g := open(t, registry.Options{Path: path})
	if err := g.ForceSchema(ctx, 99); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if g, err := registry.Open(ctx, registry.Options{Path: path}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("%v %v", g, err)
	}
}

func TestASnapshotIsAWholeDatabase(t *testing.T) {
	dir := t.TempDir()
	g := open(t, registry.Options{Path: filepath.Join(dir, "fleet.db"), Now: clock})
	ingest(t, g, arrival(t, "box-a", "epoch-one", 1, 1, "arrived"))
	copyPath := filepath.Join(dir, "copy.db")
	if err := g.Snapshot(ctx, copyPath); err != nil {
		t.Fatal(err)
	}
	// Also while somebody writes, and who writes does not wait for it.
	err := registry.EditDoc(ctx, g, "t", "k", func(n *int) error { *n = 1; return g.Snapshot(ctx, filepath.Join(dir, "second.db")) })
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(copyPath); err != nil || info.Size() == 0 {
		t.Fatal(err)
	}
	twin := open(t, registry.Options{Path: copyPath})
	if out := ingest(t, twin, arrival(t, "box-a", "epoch-one", 1, 1, "arrived")); out.New != 0 {
		t.Error("the copy does not know the proof")
	}
}

func BenchmarkIngest(b *testing.B) {
	g, err := registry.Open(ctx, registry.Options{Path: filepath.Join(b.TempDir(), "x.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	var seq uint64
	n := 0
	for b.Loop() {
		seq++
		var batch []mqttwire.Message
		for i := range 500 {
			r := &mqttwire.Reported{
				Envelope: env("epoch-one", 1, seq),
				Software: "1",
				Disk:     mqttwire.Disk{Quota: 1 << 40, Free: 1 << 40},
			}
			data, err := mqttwire.Encode(mqttwire.MaxPayload, r)
			if err != nil {
				b.Fatal(err)
			}
			topic := mqttwire.Topic{Fleet: "f", Box: fmt.Sprintf("box-%d", (n+i)%10_000), Kind: mqttwire.KindReported}
			batch = append(batch, mqttwire.Message{Topic: topic, Payload: data, Received: at})
		}
		n += 500
		if _, err := g.Ingest(ctx, batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "reports/s")
}

func TestChangesOfTheLedgerAreCommittedTogetherAndFailAlone(t *testing.T) {
	g := open(t, registry.Options{Path: filepath.Join(t.TempDir(), "fleet.db")})
	store := g.CA()
	errBad := errors.New("refused")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			err := store.Update(ctx, func(tx ca.Tx) error {
				if err := tx.Put("ca_boxes", fmt.Sprintf("box-%03d", i), []byte(`{}`)); err != nil {
					return err
				}
				if i%10 == 3 {
					return errBad
				}
				return nil
			})
			if (i%10 == 3) != errors.Is(err, errBad) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	n := 0
	err := store.View(ctx, func(tx ca.Tx) error {
		return tx.Each("ca_boxes", "box-", func(key string, _ []byte) error {
			n++
			if strings.HasSuffix(key, "3") {
				t.Errorf("%s was refused and is there", key)
			}
			return nil
		})
	})
	if err != nil || n != 180 {
		t.Errorf("%d of 180, %v", n, err)
	}
}
