package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/health"
	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/state"
)

// clock is a clock that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
	up time.Duration
}

func at(t time.Time) *clock { return &clock{t: t} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// add lets time pass, which set does not.
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t, c.up = c.t.Add(d), c.up+d
}

func (c *clock) uptime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up
}

var (
	founded = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	woken   = time.Date(1970, 1, 1, 0, 0, 7, 0, time.UTC)
)

const day = 24 * time.Hour

// fleetAt is a fleet whose authority has this clock.
func fleetAt(t *testing.T, c *clock) *identitytest.Fleet {
	t.Helper()
	return identitytest.New(t, func(o *ca.Options) { o.Now = c.now })
}

// in1970 makes a box wake without a clock, with a floor that is kept in a store of its own.
func in1970(c *clock) func(*identity.Options) {
	return func(o *identity.Options) {
		o.Clock, o.Uptime, o.TimeSyncPath, o.State = c.now, c.uptime, "", newStore()
	}
}

func synced(c *clock) func(*identity.Options) {
	return func(o *identity.Options) { o.Clock, o.Uptime, o.State = c.now, c.uptime, newStore() }
}

// store keeps what a state database keeps, as long as the test lasts.
type store struct {
	mu   sync.Mutex
	vals map[string][]byte
	fail error
	puts int
}

func newStore() *store { return &store{vals: map[string][]byte{}} }

func (s *store) Get(bucket string, key []byte) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.vals[bucket+"/"+string(key)]
	return v, ok, s.fail
}

func (s *store) Put(bucket string, key, val []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.vals[bucket+"/"+string(key)] = val
		s.puts++
	}
	return s.fail
}

func meet(t *testing.T, server, client *identity.Identity) (atServer, atClient error) {
	t.Helper()
	return handshake(t, server.SwarmServer(), client.SwarmClient("", "x.boxd", identity.ALPNSwarm))
}

func TestBoxesThatWakeIn1970Meet(t *testing.T) {
	manager, box := at(founded), at(woken)
	f := fleetAt(t, manager)
	manager.add(40 * day) // the certificates begin long after the box's floor
	a, b := f.Box("box-a", "g", in1970(box)), f.Box("box-b", "g", in1970(box))
	now, trusted := a.Now()
	if trusted || now.Before(founded.Add(-2*time.Hour)) || now.After(founded) {
		t.Fatalf("the floor of a new box is %s, trusted %v", now, trusted)
	}
	if s, c := meet(t, a, b); s != nil || c != nil {
		t.Fatalf("two boxes without clocks do not meet: %v, %v", s, c)
	}
	cert, err := f.CA.ServerCert([]string{"fleet.example"}, 90*day)
	if err != nil {
		t.Fatal(err)
	}
	cfg := a.FleetClient()
	cfg.ServerName = "fleet.example"
	if _, err := handshake(t, isServer(cert), cfg); err != nil {
		t.Fatalf("a box without a clock does not know its fleet's server: %v", err)
	}
	box.add(time.Hour)
	if later, _ := a.Now(); later.Sub(now) != time.Hour {
		t.Fatalf("an hour later the floor has risen by %s", later.Sub(now))
	}
}

func TestExpired(t *testing.T) {
	manager := at(founded)
	f := fleetAt(t, manager)
	later := at(founded.Add(91 * day))
	old := f.Box("box-old", "g", synced(manager))
	oldServer, err := f.CA.ServerCert([]string{"fleet.example"}, 90*day)
	if err != nil {
		t.Fatal(err)
	}
	manager.set(later.now())
	fresh := f.Box("box-fresh", "g", synced(later))
	floored := f.Box("box-floored", "g", in1970(at(woken)))
	floored.RaiseFloor(later.now())
	for name, me := range map[string]*identity.Identity{"a trusted clock": fresh, "a raised floor": floored} {
		if s, _ := meet(t, me, old); !errors.Is(s, identity.ErrExpired) {
			t.Errorf("%s: an expired box dialled: %v", name, s)
		}
		if _, c := meet(t, old, me); !errors.Is(c, identity.ErrExpired) {
			t.Errorf("%s: an expired box was dialled: %v", name, c)
		}
		cfg := me.FleetClient()
		cfg.ServerName = "fleet.example"
		if _, err := handshake(t, isServer(oldServer), cfg); err == nil {
			t.Errorf("%s: an expired server was believed", name)
		}
	}
	// One whose clock is known to be right does not believe what begins in a year.
	manager.set(founded.Add(400 * day))
	future := f.Box("box-future", "g", synced(manager))
	shown := shows(boxCert(t, future))
	if s, _ := handshake(t, fresh.SwarmServer(), shown); !errors.Is(s, identity.ErrNotYetValid) {
		t.Errorf("a certificate from the future: %v", s)
	}
	if s, _ := handshake(t, floored.SwarmServer(), shown); s != nil {
		t.Errorf("a box without a clock cannot know: %v", s)
	}
}

func TestFloorSurvivesPowerLoss(t *testing.T) {
	f := identitytest.New(t)
	dir := t.TempDir()
	db, err := state.Open(filepath.Join(dir, "state.db"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	floor := time.Now().Add(200 * day).Truncate(time.Second)
	opts := f.Options()
	opts.TimeSyncPath, opts.State, opts.Clock = "", db, at(woken).now
	box, err := identity.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	box.RaiseFloor(floor)
	// The power goes: what was committed is on the disk, the database is never closed.
	image, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(copied, image, 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := state.Open(copied, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	opts.State = after
	if box, err = identity.Open(opts); err != nil {
		t.Fatal(err)
	}
	if now, trusted := box.Now(); trusted || now.Before(floor) {
		t.Fatalf("after the power cut the floor is %s, was %s", now, floor)
	}
}

func TestFloorOnlyRises(t *testing.T) {
	f := fleetAt(t, at(founded))
	kept := newStore()
	box := f.Box("box-a", "g", in1970(at(woken)), func(o *identity.Options) { o.State = kept })
	box.RaiseFloor(founded.Add(10 * day))
	box.RaiseFloor(founded.Add(2 * day))
	if now, _ := box.Now(); !now.Equal(founded.Add(10 * day)) {
		t.Fatalf("the floor is %s", now)
	}
	puts := kept.puts
	for s := range 50 {
		box.RaiseFloor(founded.Add(10*day + time.Duration(s)*time.Second))
	}
	if kept.puts != puts {
		t.Fatalf("fifty seconds cost %d writes", kept.puts-puts)
	}
	kept.fail = errors.New("disk full")
	box.RaiseFloor(founded.Add(20 * day))
	if now, _ := box.Now(); !now.Equal(founded.Add(20 * day)) {
		t.Fatalf("with a full disk the floor is %s", now)
	}
}

func TestTrust(t *testing.T) {
	f := fleetAt(t, at(founded))
	sync := filepath.Join(t.TempDir(), "synchronized")
	c := at(woken)
	warnings := health.New(nil)
	box := f.Box("box-a", "g", in1970(c), func(o *identity.Options) { o.TimeSyncPath, o.Health = sync, warnings })
	changed := box.Changed()
	box.SetFleetTime(founded.Add(5 * day))
	select {
	case <-changed:
	default:
		t.Error("nobody was told that the time is known now")
	}
	c.add(time.Hour)
	if now, trusted := box.Now(); !trusted || !now.Equal(founded.Add(5*day+time.Hour)) {
		t.Fatalf("with the fleet's time: %s, %v", now, trusted)
	}
	if err := os.WriteFile(sync, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if now, trusted := box.Now(); trusted {
		t.Fatalf("a synchronised clock in 1970 is trusted: %s", now)
	}
	c.set(founded.Add(6 * day))
	if now, trusted := box.Now(); !trusted || !now.Equal(c.now()) {
		t.Fatalf("with a synchronised clock: %s, %v", now, trusted)
	}
	// A signature from a clock that is a year off.
	box.RaiseFloor(c.now().Add(365 * day))
	if now, trusted := box.Now(); !trusted || !now.Equal(c.now()) || !warnings.Has("fleet-clock-ahead") {
		t.Fatalf("after a signature from the future: %s, %v", now, trusted)
	}
}

// A floor that a wrong clock has raised comes down again when the authority says so, and only then.
func TestWrongFloorIsMendedByRenewal(t *testing.T) {
	manager := at(founded.Add(5 * day))
	f := fleetAt(t, manager)
	url := f.Serve(nil)
	kept := newStore()
	box := f.Box("box-a", "g", in1970(at(woken)), func(o *identity.Options) { o.EnrollURL, o.State = url, kept })
	peer := f.Box("box-b", "g", synced(manager))
	box.RaiseFloor(founded.Add(365 * day)) // something was signed with a clock that was a year ahead
	if s, _ := meet(t, box, peer); !errors.Is(s, identity.ErrExpired) {
		t.Fatalf("at a floor of next year: %v", s)
	}
	box.SetFleetTime(manager.now())
	if now, trusted := box.Now(); trusted || now.Before(founded.Add(365*day)) {
		t.Fatalf("somebody's word alone lowered the floor: %s, %v", now, trusted)
	}
	if !box.RenewalDue() {
		t.Fatal("the box does not ask the authority")
	}
	if err := box.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, _ := box.Now()
	if d := manager.now().Sub(now); d < 0 || d > 2*time.Hour {
		t.Fatalf("after the renewal it is %s, really %s", now, manager.now())
	}
	if s, c := meet(t, box, peer); s != nil || c != nil {
		t.Fatalf("after the renewal: %v, %v", s, c)
	}
	opts := f.Options()
	opts.TimeSyncPath, opts.State, opts.Clock = "", kept, at(woken).now
	again, err := identity.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := again.Now(); now.After(manager.now()) {
		t.Fatalf("after a restart the wrong floor is back: %s", now)
	}
}

// The clock of the authority is a year ahead: a box that knows better does not take its certificate.
func TestManagerAYearAhead(t *testing.T) {
	manager := at(founded)
	f := fleetAt(t, manager)
	url := f.Serve(nil)
	box := f.Box("box-a", "g", synced(at(founded.Add(61*day))), func(o *identity.Options) { o.EnrollURL = url })
	serial := box.Serial()
	manager.set(founded.Add(365 * day))
	if err := box.Renew(t.Context()); !errors.Is(err, identity.ErrNotYetValid) {
		t.Fatalf("a certificate of next year: %v", err)
	}
	if box.Serial() != serial {
		t.Fatal("it was taken into use")
	}
	manager.set(founded.Add(61 * day))
	if err := box.Renew(t.Context()); err != nil {
		t.Fatalf("after the manager's clock was mended: %v", err)
	}
}

// A manager whose clock is a year behind issues certificates that have ended for a box that knows better.
func TestManagerAYearBehind(t *testing.T) {
	manager := at(founded)
	f := fleetAt(t, manager)
	url := f.Serve(nil)
	boxClock := at(founded.Add(365 * day))
	manager.set(founded.Add(365 * day))
	box := f.Box("box-a", "g", synced(boxClock), func(o *identity.Options) { o.EnrollURL = url })
	serial := box.Serial()
	manager.set(founded)
	if err := box.Renew(t.Context()); !errors.Is(err, identity.ErrExpired) {
		t.Fatalf("a certificate that ended long ago: %v", err)
	}
	if box.Serial() != serial {
		t.Fatal("it was taken into use")
	}
	if now, trusted := box.Now(); !trusted || !now.Equal(boxClock.now()) {
		t.Fatalf("now is %s, %v", now, trusted)
	}
}
