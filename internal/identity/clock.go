package identity

import (
	"encoding/json"
	"log/slog"
	"os"
	"sync"
	"time"

	"boxd/internal/health"
)

const (
	stateBucket = "identity"
	floorKey    = "time-floor"

	// maxAhead is how far a signature may be ahead of a clock that is known to be right before it counts as a mistake.
	maxAhead = 24 * time.Hour
	// behind is how far a synchronised clock may lag behind the floor: clocks of a fleet differ a little.
	behind = 10 * time.Minute
	// provenFor is how long the authority's word stands against a clock or a signature that contradicts it: each question
	// costs a certificate, and the authority's clock, too, may be mended.
	provenFor = 24 * time.Hour
	// saveSigned and saveSynced are how much the floor must have risen to be worth a commit to flash.
	saveSigned = time.Minute
	saveSynced = time.Hour
)

// clock knows what time it is at least, and whether it knows more than that. The floor has two parts: what signatures
// prove, and when the box's own clock was last synchronised, which nobody signs.
type clock struct {
	sys    func() time.Time
	up     func() time.Duration
	isSync func() bool
	store  Store
	health *health.Set
	log    *slog.Logger
	base   time.Time // build time or begin of the root certificate

	mu       sync.Mutex // guards the fields below
	signed   time.Time
	synced   time.Time
	seen     time.Duration // up() when the floor was last raised: since then at least this much has passed
	fleet    time.Time     // what the fleet manager said; zero: nothing yet
	fleetAt  time.Duration // up() at that moment
	proven   time.Time     // what the authority proved to be the present; zero: nothing yet
	provenAt time.Duration // up() at that moment
	saved    floorRecord
	wrong    bool // the clock and the floor contradict each other
	trusted  bool // what tick saw last
}

// floorRecord is the floor as it is kept, in Unix seconds.
type floorRecord struct {
	Signed int64 `json:"signed"`
	Synced int64 `json:"synced"`
}

func newClock(o Options, base time.Time) *clock {
	c := &clock{
		sys: o.Clock, up: o.Uptime, store: o.State, health: o.Health, log: o.Log, base: base, signed: base, seen: o.Uptime(),
	}
	c.isSync = func() bool {
		if o.TimeSyncPath == "" {
			return false
		}
		_, err := os.Stat(o.TimeSyncPath)
		return err == nil
	}
	if c.store == nil {
		return c
	}
	data, ok, err := c.store.Get(stateBucket, []byte(floorKey))
	if err == nil && ok {
		err = json.Unmarshal(data, &c.saved)
	}
	if err != nil {
		c.log.Warn("time floor not read, starting from the build time", "error", err)
		c.saved = floorRecord{}
	}
	c.signed = latest(base, time.Unix(c.saved.Signed, 0))
	if c.saved.Synced != 0 {
		c.synced = time.Unix(c.saved.Synced, 0)
	}
	return c
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// floor is the latest moment that is known to have passed. The caller holds mu.
func (c *clock) floor() time.Time {
	return latest(c.signed, c.synced).Add(c.up() - c.seen)
}

func (c *clock) now() (time.Time, bool) {
	isSync := c.isSync()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked(isSync)
}

func (c *clock) nowLocked(isSync bool) (time.Time, bool) {
	floor := c.floor()
	t, known := c.sys(), isSync
	if !known && !c.fleet.IsZero() {
		t, known = c.fleet.Add(c.up()-c.fleetAt), true
	}
	c.wrong = known && t.Before(floor.Add(-behind))
	if p, ok := c.present(); c.wrong && ok && !p.Before(floor.Add(-behind)) {
		t = p // it bears the signatures out: the clock is the one that is wrong
	} else if !known || c.wrong {
		return floor.UTC(), false
	}
	return latest(t, floor).UTC(), true
}

// present is what time it is by the authority's word, if that was given lately. The caller holds mu.
func (c *clock) present() (time.Time, bool) {
	since := c.up() - c.provenAt
	return c.proven.Add(since), !c.proven.IsZero() && since < provenFor
}

// own is the box's own synchronised clock, when it is believed.
func (c *clock) own() (time.Time, bool) {
	isSync := c.isSync()
	c.mu.Lock()
	defer c.mu.Unlock()
	t, trusted := c.nowLocked(isSync)
	return t, trusted && isSync && !c.wrong
}

// contradicted reports whether the clock says an earlier time than signatures or an earlier synchronisation prove, and the
// authority has not said lately who is right.
func (c *clock) contradicted() bool {
	isSync := c.isSync()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, trusted := c.nowLocked(isSync)
	return c.wrong && !trusted
}

// raise takes a moment that a signature proves to have passed.
func (c *clock) raise(t time.Time) {
	isSync := c.isSync()
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := maxAhead
	if p, ok := c.present(); ok && t.After(p.Add(behind)) {
		limit = behind // the authority bears the clock out
	}
	if now, trusted := c.nowLocked(isSync); trusted && t.After(now.Add(limit)) {
		c.log.Warn("signature from the future not believed", "signed", t, "now", now)
		c.health.Raise(health.Warning{
			Code: "fleet-clock-ahead", Severity: health.Warn,
			Text: "Something of the fleet was signed at " + t.UTC().Format(time.RFC3339) + ", which is " +
				t.Sub(now).Round(time.Minute).String() + " ahead.",
			Action: "Check the clock of the machine that signs the catalog, and this box's time source.",
		})
		return
	}
	c.health.Clear("fleet-clock-ahead")
	c.raiseLocked(t)
}

func (c *clock) raiseLocked(t time.Time) {
	if !t.After(c.floor()) {
		return
	}
	c.rebase()
	c.signed = latest(c.signed, t)
	c.save(saveSigned)
}

// rebase folds the time that has passed since the floor was raised into the floor. The caller holds mu.
func (c *clock) rebase() {
	up := c.up()
	c.signed = c.signed.Add(up - c.seen)
	if !c.synced.IsZero() {
		c.synced = c.synced.Add(up - c.seen)
	}
	c.seen = up
}

// setFleet notes the fleet manager's own time and reports whether it is the first.
func (c *clock) setFleet(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.fleet.IsZero()
	c.fleet, c.fleetAt = t, c.up()
	return first
}

// settle takes what the CA proved: t has passed, and present, if not zero, is now. It may lower a floor that a wrong clock had
// raised. Where the box's own clock bears the floor out, both would have to be wrong, and the CA must be much surer.
func (c *clock) settle(t, present time.Time) {
	isSync := c.isSync()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, trusted := c.nowLocked(isSync)
	margin := behind
	if trusted && isSync && !c.wrong {
		margin = maxAhead
	}
	now := t.Add(maxBackdate) // at the latest
	if !present.IsZero() {
		now, c.proven, c.provenAt = present, present, c.up()
	}
	if !c.floor().After(now.Add(margin)) {
		c.raiseLocked(t)
		return
	}
	c.log.Warn("time floor lowered to what the certificate authority says", "floor", c.floor(), "now", t)
	c.signed, c.synced, c.seen = latest(c.base, t), time.Time{}, c.up()
	c.save(0)
}

// tick notes that the clock is synchronised, for the next start. Nobody signs that, so a box that has no certificate,
// and could not have a mistake mended, does not keep it. It reports whether trust in the clock changed.
func (c *clock) tick(enrolled bool) (changed bool) {
	isSync := c.isSync()
	c.mu.Lock()
	defer c.mu.Unlock()
	now, trusted := c.nowLocked(isSync)
	if c.wrong {
		c.health.Raise(health.Warning{
			Code: "clock-contradicted", Severity: health.Warn,
			Text:   "The clock says an earlier time than the fleet's signatures prove; the box asks the fleet manager.",
			Action: "Check the box's time source, and the clock of the fleet manager.",
		})
	} else {
		c.health.Clear("clock-contradicted")
	}
	if isSync && trusted && !c.wrong && enrolled {
		c.rebase()
		c.synced = latest(c.synced, now)
		c.save(saveSynced)
	}
	changed = trusted != c.trusted
	c.trusted = trusted
	return changed
}

// save writes the floor when it has risen by at least step or has been lowered. The caller holds mu.
func (c *clock) save(step time.Duration) {
	rec := floorRecord{Signed: c.signed.Unix()}
	if !c.synced.IsZero() {
		rec.Synced = c.synced.Unix()
	}
	was := max(c.saved.Signed, c.saved.Synced)
	if rise := max(rec.Signed, rec.Synced) - was; c.store == nil || (rise >= 0 && rise < int64(step/time.Second)) {
		return
	}
	data, err := json.Marshal(rec)
	if err == nil {
		err = c.store.Put(stateBucket, []byte(floorKey), data)
	}
	if err != nil {
		c.log.Warn("time floor not saved", "error", err)
		c.health.Raise(health.Warning{
			Code: "time-floor-not-saved", Severity: health.Warn,
			Text: "The time floor cannot be saved: " + err.Error(),
		})
		return
	}
	c.health.Clear("time-floor-not-saved")
	c.saved = rec
}
