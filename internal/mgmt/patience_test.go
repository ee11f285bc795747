package mgmt

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// deaf is a client of a broker that takes everything and acknowledges nothing until told.
type deaf struct {
	mqtt.Client
	sent []string
	late chan struct{}
}

type lateToken struct {
	mqtt.DummyToken
	done chan struct{}
}

func (l *lateToken) Done() <-chan struct{} { return l.done }

func (d *deaf) Publish(topic string, _ byte, _ bool, _ any) mqtt.Token {
	d.sent = append(d.sent, topic)
	return &lateToken{done: d.late}
}

// A broker that answers pings and acknowledges nothing costs a bounded number of messages, and is given up in the end.
func TestBrokerWithoutAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
		defer db.Close()
		box := newFakeBox()
		m := newManager(t, box, db)
		client := &deaf{late: make(chan struct{})}
		s := &session{m: m, client: client, fleet: "f1", box: "box-a", sent: map[uint64]time.Time{}}
		pump := func(d time.Duration) error {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				box.set(func(r *Report) { r.Paused = !r.Paused }) // always something to tell
				if err := s.pump(); err != nil {
					return err
				}
			}
			return nil
		}
		if err := pump(openTime - time.Minute); err != nil {
			t.Fatal("too early:", err)
		}
		if n := len(client.sent); n < maxOpen || n > maxOpen+inFlight || len(s.open) != n {
			t.Fatalf("%d messages, %d known to be open", n, len(s.open))
		}
		before := len(client.sent)
		close(client.late) // it was only slow
		if err := pump(time.Minute); err != nil || len(s.open) != 0 || len(client.sent) == before {
			t.Fatalf("after all were acknowledged: %v, %d open, %d more sent", err, len(s.open), len(client.sent)-before)
		}
		client.late = make(chan struct{})
		if err := pump(openTime + time.Hour); err == nil {
			t.Fatal("it is never given up")
		}
	})
}

// refusing is a box that cannot keep its configuration.
type refusing struct {
	*fakeBox
	fail bool
}

func (r *refusing) Configure(ctx context.Context, c mqttwire.Config) ([]string, error) {
	if r.fail {
		return nil, errors.New("no space left on device")
	}
	return r.fakeBox.Configure(ctx, c)
}

// A wish that could not be applied is applied as soon as that goes.
func TestWishIsAppliedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
		defer db.Close()
		box := &refusing{fakeBox: newFakeBox(), fail: true}
		m := newManager(t, box, db)
		if err := m.desired.arrived(t.Context(), "box", wishOf(t, "box-a", 7, `,"config":{"wan_down":1}`)); err != nil {
			t.Fatal(err)
		}
		reported := func() int64 {
			for range int(lastAgain / time.Second) {
				time.Sleep(time.Second)
				if err := m.desired.retry(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r, _, _ := m.reported()
			return r.DesiredVersion
		}
		if v := reported(); v != 0 {
			t.Fatalf("version %d is reported and was not applied", v)
		}
		box.fail = false
		reported()
		if v := reported(); v != 7 || len(box.configs) != 1 || *box.configs[0].WANDown != 1 {
			t.Fatalf("version %d, configured %d times", v, len(box.configs))
		}
	})
}

// What other programs do to the disk is no progress of ours.
func TestOnlyProgressIsReportedSoon(t *testing.T) {
	t.Parallel()
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	box := newFakeBox()
	m := newManager(t, box, db)
	hash := func(f func(*Report)) uint64 {
		box.set(f)
		_, _, all := m.reported()
		return all
	}
	start := hash(func(r *Report) {
		r.Disk = mqttwire.Disk{Used: 3 << 30, Free: 5<<30 + 1<<20, Quota: 6 << 30}
		r.Assets = []mqttwire.AssetProgress{{ID: asset.ID{1}, State: "waiting", ETA: 3601}}
	})
	if hash(func(r *Report) { r.Disk.Free -= 4096; r.Assets[0].ETA++ }) != start {
		t.Error("a block that somebody wrote is told within seconds")
	}
	if hash(func(r *Report) { r.Disk.Free -= 1 << 30 }) == start {
		t.Error("a GiB that somebody wrote is not told")
	}
	if hash(func(r *Report) { r.Disk.Free += 1 << 30; r.Disk.Used++ }) == start {
		t.Error("a byte of the cache is not told")
	}
}

// Reading the whole disk does not hold up a pause.
func TestShortCommandsPassLongOnes(t *testing.T) {
	t.Parallel()
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	defer db.Close()
	box := newFakeBox()
	release, ran := make(chan struct{}), make(chan string, 10)
	box.do = func(c Command) Result {
		if c.Name == "verify" {
			<-release
		}
		ran <- c.ID
		return Result{}
	}
	m := newManager(t, box, db)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.cmds.run(ctx) }()
	later := time.Now().Add(time.Hour)
	m.cmds.offer(command("v1", later))
	m.cmds.offer(command("v2", later))
	pause := command("p1", later)
	pause.Payload = json.RawMessage(`{"v":1,"name":"pause"}`)
	m.cmds.offer(pause)
	if id := <-ran; id != "p1" {
		t.Errorf("%s ran first", id)
	}
	close(release)
	if a, b := <-ran, <-ran; a != "v1" || b != "v2" {
		t.Errorf("then %s and %s", a, b)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
