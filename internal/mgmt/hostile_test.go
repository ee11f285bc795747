package mgmt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/health"
)

// countingDB counts the writes.
type countingDB struct {
	DB
	updates int
}

func (d *countingDB) Update(fn func(*bbolt.Tx) error) error { d.updates++; return d.DB.Update(fn) }

func TestAReplayedCommandCostsFewWrites(t *testing.T) {
	bolt := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer bolt.Close()
	db := &countingDB{DB: bolt}
	box := newFakeBox()
	m := newManager(t, box, db)
	cmd := command("c1", time.Now().Add(time.Hour))
	for range 2 {
		if err := m.cmds.handle(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	before := db.updates
	for range 100 { // the answer is still in the outbox
		if err := m.cmds.handle(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	if db.updates != before {
		t.Errorf("%d writes for an answer that waits to be sent", db.updates-before)
	}
	repeated := 0
	for range 100 { // the broker forges the acknowledgement and repeats the command
		if acks := answers(t, m); len(acks) == 1 {
			if err := m.outbox.remove([]uint64{acks[0].Evt}); err != nil {
				t.Fatal(err)
			}
			repeated++
		}
		if err := m.cmds.handle(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	if len(box.ran()) != 1 || repeated < repeatBurst || repeated > repeatBurst+1 {
		t.Errorf("ran %d times, answered %d times more", len(box.ran()), repeated)
	}
	if now := time.Now().Add(repeatEvery); !m.cmds.mayRepeat(now) || m.cmds.mayRepeat(now) {
		t.Error("after a while one more may be answered again, and one only")
	}
}

func TestWishesOfGroupsThatTheBoxLeftMakeRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	defer func() { _ = db.Close() }()
	group := ""
	own := func(o *Options) { o.Groups = func() []string { return []string{group} } }
	m := newManager(t, newFakeBox(), db, own)
	if err := m.desired.arrived(t.Context(), "box", wishOf(t, "box-a", 1, "")); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxTargets {
		group = fmt.Sprintf("g%d", i)
		if err := m.desired.arrived(t.Context(), "group:"+group, wishOf(t, "group:"+group, 1, "")); err != nil {
			t.Fatal(err)
		}
		if m.desired.wishes["group:"+group] == nil || m.desired.wishes["box"] == nil || len(m.desired.wishes) > maxTargets {
			t.Fatalf("group %d: %d wishes are kept: %v", i, len(m.desired.wishes), m.desired.wishes)
		}
	}
	if got := newManager(t, newFakeBox(), db, own); len(got.desired.wishes) != len(m.desired.wishes) {
		t.Errorf("%d wishes were kept, %d are in memory", len(got.desired.wishes), len(m.desired.wishes))
	}
}

// A stolen operations key, or a clock that is wrong, cannot sign a wish after which a box takes no other.
func TestAWishOfAnAbsurdVersion(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer func() { _ = db.Close() }()
	now, trusted := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), false
	faults := health.New(nil)
	begin := func() *Manager {
		return newManager(t, newFakeBox(), db, func(o *Options) {
			o.Now, o.Health = func() (time.Time, bool) { return now, trusted }, faults
		})
	}
	m := begin()
	day := int64(24 * 60 * 60)
	for _, c := range []struct {
		version int64
		trusted bool
		takes   int64 // the version that it has then
	}{
		{math.MaxInt64 - 200, false, 0},
		{1 << 41, false, 0},
		{3, false, 3},
		{math.MaxInt64 - 200, true, 3},
		{now.Unix() + 366*day, true, 3},
		{now.Unix() + 364*day, true, now.Unix() + 364*day}, // above what a restored backup may have given
		{now.Unix() + 365*day, true, now.Unix() + 365*day},
		{4, true, now.Unix() + 365*day},
		{now.Unix() + 1000*day, false, now.Unix() + 1000*day}, // which day it is was not known
		{4, false, now.Unix() + 1000*day},
		{4, true, 4}, // now it is
	} {
		trusted = c.trusted
		if err := m.desired.arrived(t.Context(), "box", wishOf(t, "box-a", c.version, "")); err != nil {
			t.Fatal(err)
		}
		var has int64
		if w := m.desired.wishes["box"]; w != nil {
			has = w.Version
		}
		if has != c.takes || faults.Has(CodeVersion) != m.desired.absurd(c.version) {
			t.Errorf("%d, trusted %t: it has %d, want %d; warnings %v", c.version, c.trusted, has, c.takes, faults.List())
		}
	}

	// An earlier boxd took one: its config holds until the manager wishes something.
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketDesired)).Put([]byte("box"), []byte(`{"v":1,"version":9223372036854775807,"config":{"wan_down":5}}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	m = begin()
	if w := m.desired.wishes["box"]; w == nil || w.Version != math.MaxInt64 {
		t.Errorf("after a restart: %+v", w)
	}
	if err := m.desired.arrived(t.Context(), "box", wishOf(t, "box-a", 4, "")); err != nil || m.desired.wishes["box"].Version != 4 {
		t.Errorf("the manager's wish: %+v, %v", m.desired.wishes["box"], err)
	}
}

// readPacket reads one MQTT packet and returns its first byte.
func readPacket(r *bufio.Reader) (byte, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	length := 0
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		length |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
	}
	_, err = r.Discard(length)
	return kind, err
}

func TestABrokerThatNeverAnswersASubscriptionDoesNotDelayTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			asked <- err
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		if _, err = readPacket(r); err == nil {
			_, err = c.Write([]byte{0x20, 2, 0, 0}) // CONNACK
		}
		if err == nil {
			_, err = readPacket(r) // SUBSCRIBE
		}
		asked <- err
		_, _ = io.Copy(io.Discard, r)
	}()
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	m := newManager(t, newFakeBox(), db, func(o *Options) { o.Brokers = []string{"tcp://" + l.Addr().String()} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(tokenWait / 2):
		t.Error("the end waits for the broker")
	}
}
