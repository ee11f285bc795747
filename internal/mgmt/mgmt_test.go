package mgmt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/asset"
	"boxd/internal/health"
	"boxd/internal/mqttwire"
)

// fakeBox is a box whose report the test sets.
type fakeBox struct {
	mu      sync.Mutex // guards the fields below
	rep     Report
	changed chan struct{}
	done    []string
	configs []mqttwire.Config
	bells   []int64
	do      func(Command) Result
}

func newFakeBox() *fakeBox {
	return &fakeBox{changed: make(chan struct{}), rep: Report{HoldingsKnown: true, Software: "test"}}
}

func (b *fakeBox) set(f func(*Report)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.rep)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBox) Report() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rep
}

func (b *fakeBox) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
func (b *fakeBox) Tele() mqttwire.Tele { return mqttwire.Tele{RSS: 1} }
func (b *fakeBox) Do(_ context.Context, c Command) Result {
	b.mu.Lock()
	b.done = append(b.done, c.ID)
	do := b.do
	b.mu.Unlock()
	if do != nil {
		return do(c)
	}
	return Result{Text: "done"}
}

func (b *fakeBox) Configure(_ context.Context, c mqttwire.Config) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.configs = append(b.configs, c)
	return nil, nil
}

func (b *fakeBox) Bell(v int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bells = append(b.bells, v)
}

func (b *fakeBox) ran() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.done)
}

func openDB(t *testing.T, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

var errUnsigned = errors.New("unsigned")

// plainVerify stands in for the signatures: what begins with "forged" has none.
func plainVerify(raw []byte) (Message, error) {
	var m Message
	if strings.HasPrefix(string(raw), "forged") {
		return m, errUnsigned
	}
	return m, json.Unmarshal(raw, &m)
}

func options(box Box, db DB) Options {
	return Options{
		Box:        box,
		DB:         db,
		Brokers:    []string{"tcp://127.0.0.1:1"},
		AllowPlain: true,
		Verify:     plainVerify,
		BoxID:      func() string { return "box-a" },
		Fleet:      func() string { return "f1" },
		Groups:     func() []string { return []string{"living"} },
		BootSpread: -1,
	}
}

func newManager(t *testing.T, box Box, db DB, change ...func(*Options)) *Manager {
	t.Helper()
	o := options(box, db)
	for _, f := range change {
		f(&o)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wishOf(t *testing.T, to string, version int64, config string) []byte {
	t.Helper()
	payload := fmt.Sprintf(`{"v":1,"version":%d,"catalog_version":%d%s}`, version, 100+version, config)
	raw, err := json.Marshal(Message{Kind: "desired", To: to, Payload: json.RawMessage(payload)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAnOlderWishChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	box := newFakeBox()
	m := newManager(t, box, db)
	ctx := t.Context()
	if err := m.desired.arrived(ctx, "box", wishOf(t, "box-a", 5, `,"config":{"wan_down":5}`)); err != nil {
		t.Fatal(err)
	}
	for _, raw := range [][]byte{
		wishOf(t, "box-a", 4, `,"config":{"wan_down":4}`),  // replayed
		wishOf(t, "box-a", 5, `,"config":{"wan_down":50}`), // another of the same version
		[]byte("forged"),
		wishOf(t, "box-a", 6, `,"config":{"unknown":1}`), // not understood as a whole
	} {
		if err := m.desired.arrived(ctx, "box", raw); err != nil {
			t.Fatal(err)
		}
	}
	// A command's envelope is no wish, and a wish for one group is not taken from another group's topic.
	if err := m.desired.arrived(ctx, "group:living", wishOf(t, "group:kitchen", 9, "")); err != nil {
		t.Fatal(err)
	}
	if len(box.configs) != 1 || *box.configs[0].WANDown != 5 || !slices.Equal(box.bells, []int64{105}) {
		t.Errorf("configs %v, bells %v", box.configs, box.bells)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db = openDB(t, path) // the next start obeys the stored wish, and still no older one
	defer db.Close()
	box = newFakeBox()
	m = newManager(t, box, db)
	m.desired.restore(ctx)
	if err := m.desired.arrived(ctx, "box", wishOf(t, "box-a", 4, "")); err != nil {
		t.Fatal(err)
	}
	if len(box.configs) != 1 || *box.configs[0].WANDown != 5 {
		t.Errorf("after the restart: %v", box.configs)
	}
	var r mqttwire.Reported
	m.desired.fill(&r)
	if r.DesiredVersion != 5 {
		t.Errorf("reports version %d", r.DesiredVersion)
	}
}

func TestAWishThatCannotBeVerifiedYetWaitsForTheKeys(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	box, keys := newFakeBox(), false
	warnings := health.New(nil)
	m := newManager(t, box, db, func(o *Options) {
		o.Health = warnings
		o.Verify = func(raw []byte) (Message, error) {
			if !keys {
				return Message{}, errUnsigned
			}
			return plainVerify(raw)
		}
	})
	if err := m.desired.arrived(t.Context(), "group:living", wishOf(t, "group:living", 3, "")); err != nil {
		t.Fatal(err)
	}
	if len(box.bells) != 0 || !warnings.Has(CodeUnsigned) {
		t.Fatal("an unverified wish was obeyed, or nothing was said")
	}
	keys = true
	if err := m.desired.retry(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(box.bells, []int64{103}) || warnings.Has(CodeUnsigned) {
		t.Errorf("bells %v", box.bells)
	}
}

func TestTheTighterOfTwoWishesHolds(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	yes, no := true, false
	got := merge(mqttwire.Config{WANDown: n(10), Quota: n(5), Reserve: n(1), Paused: &yes},
		mqttwire.Config{WANDown: n(3), Quota: n(9), Reserve: n(4), Paused: &no})
	if *got.WANDown != 3 || *got.Quota != 5 || *got.Reserve != 4 || !*got.Paused || got.WANUp != nil {
		t.Errorf("%+v", got)
	}
	if m := merge(mqttwire.Config{}, mqttwire.Config{WANUp: n(0)}); *m.WANUp != 0 {
		t.Error("0 stops: it is not the absence of a limit")
	}
}

func command(id string, expires time.Time) Message {
	return Message{Kind: "command", ID: id, To: "box-a", Expires: expires, Payload: json.RawMessage(`{"v":1,"name":"verify"}`)}
}

func answers(t *testing.T, m *Manager) []mqttwire.CommandAck {
	t.Helper()
	list, err := m.outbox.after(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var acks []mqttwire.CommandAck
	for _, r := range list {
		if r.Answer != nil {
			acks = append(acks, *r.Answer)
		}
	}
	return acks
}

func TestACommandRunsOnceAlsoAcrossRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	box := newFakeBox()
	m := newManager(t, box, db)
	later := time.Now().Add(time.Hour)
	for range 3 {
		if err := m.cmds.handle(t.Context(), command("c1", later)); err != nil {
			t.Fatal(err)
		}
	}
	if len(box.ran()) != 1 || len(answers(t, m)) != 1 {
		t.Fatalf("ran %v, answers %v", box.ran(), answers(t, m))
	}
	if err := m.outbox.remove([]uint64{answers(t, m)[0].Evt}); err != nil { // acknowledged
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, path)
	defer db.Close()
	m = newManager(t, box, db)
	if err := m.cmds.handle(t.Context(), command("c1", later)); err != nil { // the manager lost the answer and asks again
		t.Fatal(err)
	}
	acks := answers(t, m)
	if len(box.ran()) != 1 || len(acks) != 1 || acks[0].Status != mqttwire.StatusDone || acks[0].Text != "done" {
		t.Errorf("ran %v, answers %+v", box.ran(), acks)
	}
}

func TestACommandThatThePowerInterruptedIsNotRunAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	box := newFakeBox()
	m := newManager(t, box, db)
	if fresh, err := m.cmds.begin(command("c1", time.Now().Add(time.Hour)), "verify"); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	if err := db.Close(); err != nil { // here the power goes
		t.Fatal(err)
	}
	db = openDB(t, path)
	defer db.Close()
	m = newManager(t, box, db)
	if err := m.cmds.answerInterrupted(); err != nil {
		t.Fatal(err)
	}
	if err := m.cmds.handle(t.Context(), command("c1", time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	acks := answers(t, m)
	if len(box.ran()) != 0 || len(acks) != 1 || acks[0].Code != "interrupted" {
		t.Errorf("ran %v, answers %+v", box.ran(), acks)
	}
}

func TestCommandIDsAreKeptUntilTheyExpire(t *testing.T) {
	if testing.Short() {
		t.Skip("runs some hundred commands, each among all before it")
	}
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	box := newFakeBox()
	now := time.Now()
	m := newManager(t, box, db, func(o *Options) { o.Now = func() (time.Time, bool) { return now, true }; o.OutboxMax = 10_000 })
	for i := range maxCommands + 50 {
		if err := m.cmds.handle(t.Context(), command(fmt.Sprintf("c%d", i), now.Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(box.ran()); n != maxCommands {
		t.Fatalf("%d commands ran: an id was forgotten before it expired, or too early refused", n)
	}
	now = now.Add(3 * time.Hour)
	if err := m.cmds.handle(t.Context(), command("late", now.Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if n := len(box.ran()); n != maxCommands+1 {
		t.Errorf("after they expired %d ran", n)
	}
}

func TestUnknownAndBadCommandsAreAnswered(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	box := newFakeBox()
	m := newManager(t, box, db)
	for id, payload := range map[string]string{
		"c1": `{"v":1,"name":"self-destruct"}`, "c2": `{"v":1}`, "c3": `{"v":2,"name":"verify"}`,
		"c4": `{"v":1,"name":"verify","extra":1}`,
	} {
		msg := Message{Kind: "command", ID: id, Expires: time.Now().Add(time.Hour), Payload: json.RawMessage(payload)}
		if err := m.cmds.handle(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	if len(box.ran()) != 0 {
		t.Errorf("ran %v", box.ran())
	}
	for _, a := range answers(t, m) {
		if a.Status != mqttwire.StatusFailed || a.Code == "" {
			t.Errorf("%+v", a)
		}
	}
	if n := len(answers(t, m)); n != 4 {
		t.Errorf("%d answers", n)
	}
}

func TestAMonthCutOffCostsNoProof(t *testing.T) {
	arrived, lost := monthCutOff(t, 4096)
	if arrived != 300 || lost != 0 {
		t.Errorf("%d of 300 arrivals were told, %d lost", arrived, lost)
	}
}

// With an outbox that is far too small the box still ends with the truth, stays within the bound and says what it lost.
func TestAMonthCutOffIsBounded(t *testing.T) {
	if arrived, lost := monthCutOff(t, 150); arrived+int(lost) != 300 || lost == 0 { //nolint:gosec // a small count
		t.Errorf("%d arrivals were told, %d lost, of 300", arrived, lost)
	}
}

func monthCutOff(t *testing.T, limit int) (arrivals int, lost uint64) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	box := newFakeBox()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	change := func(o *Options) { o.Now = func() (time.Time, bool) { return now, true }; o.OutboxMax = limit }
	m := newManager(t, box, db, change)
	known, err := m.loadProven()
	if err != nil {
		t.Fatal(err)
	}
	// 30 nights of ten new assets, the oldest of which make room after three nights; every week the power goes.
	var want []string
	night := func(i int) {
		now = now.Add(24 * time.Hour)
		var held []Holding
		for n := max(0, i-2); n <= i; n++ {
			for k := range 10 {
				at := time.Date(2026, 11, 2+n, 3, k, 0, 0, time.UTC)
				held = append(held, Holding{ID: asset.ID{1, byte(n), byte(k)}, Name: "film", Size: 1, At: at, Trusted: true})
			}
		}
		box.set(func(r *Report) { r.Holdings = held; r.Gone = map[asset.ID]string{} })
		err := m.collectOnce(known)
		if err != nil && !errors.Is(err, errOutboxFull) {
			t.Fatal(err)
		}
		if n := m.outbox.length(); n > limit {
			t.Fatalf("night %d: %d messages in an outbox of %d", i, n, limit)
		}
	}
	for i := range 30 {
		night(i)
		if i%7 == 6 && limit > 1000 {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openDB(t, path)
			m = newManager(t, box, db, change)
			if known, err = m.loadProven(); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer func() { _ = db.Close() }()
	for _, h := range box.Report().Holdings {
		want = append(want, h.ID.String())
	}
	// Back again: the manager acknowledges in turn, and takes each (epoch, number) once.
	var arrived, all []uint64
	seen := map[string]bool{}
	for m.outbox.length() > 0 {
		list, err := m.outbox.after(0, inFlight)
		if err != nil {
			t.Fatal(err)
		}
		var numbers []uint64
		for _, r := range list {
			numbers = append(numbers, r.Event.Evt)
			if r.Event.Kind == mqttwire.EventArrived {
				arrived = append(arrived, r.Event.Evt)
				seen[r.Event.Asset.String()] = true
			} else {
				delete(seen, r.Event.Asset.String())
			}
		}
		all = append(all, numbers...)
		if err := m.outbox.remove(numbers); err != nil {
			t.Fatal(err)
		}
		if err := m.collectOnce(known); err != nil && !errors.Is(err, errOutboxFull) {
			t.Fatal(err)
		}
	}
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Error("out of order, or twice")
	}
	for i, n := range all {
		if i > 0 && n != all[i-1]+1 {
			t.Fatalf("a hole between %d and %d", all[i-1], n)
		}
	}
	// What the manager now believes is exactly what the box holds.
	for _, id := range want {
		if !seen[id] {
			t.Errorf("the arrival of %s was never told", id)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("the manager believes %d, the box holds %d", len(seen), len(want))
	}
	return len(arrived), m.lost.Load()
}

func TestProofsAreMadeOnceAndAcrossRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	box := newFakeBox()
	box.rep.Holdings = []Holding{{ID: asset.ID{1}, Name: "film", Publisher: "acme", Size: 9, At: time.Now()}}
	for range 3 {
		m := newManager(t, box, db)
		known, err := m.loadProven()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := m.collectOnce(known); err != nil {
				t.Fatal(err)
			}
		}
		if n := m.outbox.length(); n != 1 {
			t.Fatalf("%d proofs of one arrival", n)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openDB(t, path)
	}
	defer db.Close()
	m := newManager(t, box, db)
	known, err := m.loadProven()
	if err != nil {
		t.Fatal(err)
	}
	box.set(func(r *Report) { r.HoldingsKnown, r.Holdings = false, nil }) // the cache is not loaded: not a sign of loss
	if err := m.collectOnce(known); err != nil || m.outbox.length() != 1 {
		t.Fatalf("%v, %d messages", err, m.outbox.length())
	}
	box.set(func(r *Report) { r.HoldingsKnown, r.Gone = true, map[asset.ID]string{{1}: "withdrawn"} })
	if err := m.collectOnce(known); err != nil {
		t.Fatal(err)
	}
	list, err := m.outbox.after(0, 10)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d messages, %v", len(list), err)
	}
	if e := list[1].Event; e.Kind != mqttwire.EventErased || e.Reason != "withdrawn" || e.Publisher != "acme" {
		t.Errorf("%+v", e)
	}
}

// restoredDB is a state file that came back from its backup copy.
type restoredDB struct{ *bbolt.DB }

func (restoredDB) Restored() bool { return true }

func TestAStateFileFromABackupBeginsANewEpoch(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	first := newManager(t, newFakeBox(), db)
	again := newManager(t, newFakeBox(), db)
	if first.epoch != again.epoch {
		t.Error("the epoch changed without cause")
	}
	if m := newManager(t, newFakeBox(), restoredDB{db}); m.epoch == first.epoch {
		t.Error("outbox numbers could be used twice in one epoch")
	}
}

func TestBackoffIsFullJitterAndCapped(t *testing.T) {
	low, high := 0, 0
	for range 2000 {
		d := backoff(time.Second, time.Minute, 30)
		if d < 0 || d >= time.Minute {
			t.Fatal(d)
		}
		if d < 15*time.Second {
			low++
		}
		if d > 45*time.Second {
			high++
		}
	}
	if low < 400 || high < 400 {
		t.Errorf("%d low and %d high of 2000: not spread over the whole span", low, high)
	}
	if d := backoff(time.Second, time.Minute, 0); d >= time.Second {
		t.Errorf("the first wait is %s", d)
	}
}

func TestTelemetryIsDroppedOldestFirstAndCounted(t *testing.T) {
	var ring teleRing
	for i := range teleKeep + 5 {
		ring.put(mqttwire.Tele{RSS: int64(i)})
	}
	got := ring.take()
	if len(got) != teleKeep || got[0].RSS != 5 || ring.dropped() != 5 || len(ring.take()) != 0 {
		t.Errorf("%d kept from %d on, %d dropped", len(got), got[0].RSS, ring.dropped())
	}
}

func TestAReportAlwaysFits(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	box := newFakeBox()
	long := strings.Repeat("ä\x00\xff", 300)
	for i := range 100 {
		box.rep.Assets = append(
			box.rep.Assets,
			mqttwire.AssetProgress{ID: asset.ID{byte(i), 1}, State: mqttwire.Fetching, Size: 1 << 40, Why: long, Role: long},
		)
		box.rep.Health = append(box.rep.Health, health.Warning{Code: fmt.Sprintf("code-%d", i), Severity: "warning", Text: long})
		box.rep.Home = append(box.rep.Home, mqttwire.Shared{Box: fmt.Sprintf("box-%d", i), Got: int64(i)}, mqttwire.Shared{Box: "no box"})
	}
	box.rep.Software = long
	m := newManager(t, box, db)
	r, _, _ := m.reported()
	if len(r.Home) != mqttwire.MaxHome || r.Home[0].Box != "box-84" || r.Home[15].Box != "box-99" {
		t.Errorf("of the home: %v", r.Home)
	}
	r.Envelope = mqttwire.Envelope{V: 1, Epoch: m.epoch, SID: 1, Seq: 1, TS: time.Now()}
	data, err := encodeReported(r)
	if err != nil {
		t.Fatal(err)
	}
	var back mqttwire.Reported
	if err := mqttwire.Decode(data, mqttwire.MaxPayload, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Assets)+back.More != 100 || len(back.Assets) < 4 {
		t.Errorf("%d assets and %d more", len(back.Assets), back.More)
	}
}

func TestClipCutsNoCharacter(t *testing.T) {
	for _, s := range []string{"", "abc", strings.Repeat("ä", 10), "aä", "\xff\xfe", strings.Repeat("€", 5) + "\xe2\x82"} {
		for n := range 12 {
			got := clip(s, n)
			if len(got) > n && n > 2 || strings.ToValidUTF8(got, "") != got && !strings.Contains(got, "\ufffd") {
				t.Errorf("clip(%q, %d) = %q", s, n, got)
			}
		}
	}
}

func TestABoxThatIsNotEnrolledWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id, changed := "", make(chan struct{})
		db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
		defer db.Close()
		m := newManager(t, newFakeBox(), db, func(o *Options) {
			o.BoxID = func() string { return id }
			o.IdentityChanged = func() <-chan struct{} { return changed }
		})
		ctx, cancel := context.WithCancel(t.Context())
		enrolled := make(chan bool, 1)
		go func() { enrolled <- m.waitEnrolled(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-enrolled:
			t.Fatal("it went on without a name")
		default:
		}
		id = "box-a"
		close(changed)
		if !<-enrolled {
			t.Error("it did not go on")
		}
		cancel()
	})
}

func TestTheGuardStopsAnOversizedPacketBeforeItsBody(t *testing.T) {
	packet := func(n int) []byte {
		p := []byte{0x30}
		for v := n; ; {
			b := byte(v & 0x7f)
			if v >>= 7; v > 0 {
				p = append(p, b|0x80)
				continue
			}
			p = append(p, b)
			break
		}
		return p
	}
	var g frameGuard
	good := append(packet(maxPacket), make([]byte, maxPacket)...)
	good = append(append(good, 0xd0, 0), packet(3)...)
	good = append(good, 1, 2, 3)
	for i := range good { // one byte at a time, as the worst of networks
		if err := g.feed(good[i : i+1]); err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	for _, bad := range [][]byte{packet(maxPacket + 1), packet(200 << 20), {0x30, 0xff, 0xff, 0xff, 0xff, 0x01}} {
		g := frameGuard{}
		if err := g.feed(bad); !errors.Is(err, errPacketTooBig) {
			t.Errorf("% x: %v", bad, err)
		}
	}
}

// FuzzFrameGuard: however the stream is cut, the verdict is the same.
func FuzzFrameGuard(f *testing.F) {
	f.Add([]byte{0x30, 2, 1, 1, 0xd0, 0}, 1)
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 2)
	f.Fuzz(func(t *testing.T, stream []byte, step int) {
		if step < 1 {
			step = 1
		}
		var whole, parts frameGuard
		want := whole.feed(stream)
		var got error
		for rest := stream; len(rest) > 0 && got == nil; {
			n := min(step, len(rest))
			got = parts.feed(rest[:n])
			rest = rest[n:]
		}
		if (want == nil) != (got == nil) || want == nil && whole != parts {
			t.Fatalf("whole %v %+v, in parts %v %+v", want, whole, got, parts)
		}
	})
}
