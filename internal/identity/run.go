package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"boxd/internal/health"
)

const (
	tickEvery = time.Minute
	minWait   = time.Second
	maxWait   = 5 * time.Minute
	// refusedWait is how long a box waits at most after a clear no: an operator may still mend it.
	refusedWait = time.Hour
)

// Run enrols until there is a certificate, renews it at two thirds of its life, and keeps the time floor, until ctx
// ends. A fleet manager that does not answer is a health code, not an error.
func (i *Identity) Run(ctx context.Context) error {
	wait := minWait
	var next time.Duration // no attempt before that, by opts.Uptime: the clock may jump
	for ctx.Err() == nil {
		changed := i.clock.tick(i.Enrolled())
		i.checkHealth()
		if changed {
			i.wake()
		}
		if op := i.due(); op != nil && i.opts.Uptime() >= next {
			err := op(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil && i.Enrolled() && i.RenewalDue():
				i.attempted(nil) // nor may the next be better: it does not tell what time it is, or the intermediate is revoked
				wait = min(max(2*wait, tickEvery), refusedWait)
				next = i.opts.Uptime() + wait/2 + rand.N(wait/2)
			case err == nil:
				i.attempted(nil)
				wait, next = minWait, 0
			default:
				i.attempted(err)
				var pause time.Duration
				pause, wait = backoff(err, wait)
				next = i.opts.Uptime() + pause
			}
		}
		i.sleep(ctx, next)
	}
	return nil
}

// due returns what should be done now, nil when nothing.
func (i *Identity) due() func(context.Context) error {
	switch {
	case i.opts.EnrollURL == "":
		return nil
	case !i.Enrolled():
		if i.opts.Token == "" {
			return nil
		}
		return i.Enroll
	case i.admittedAnew():
		return i.EnrollAgain
	case i.RenewalDue():
		return i.Renew
	default:
		return nil
	}
}

// RenewalDue reports whether two thirds of the certificate's life have passed, or a new one is needed to find out what
// time it is, or because a server of the fleet or the catalog's revocations do not accept the one there is. The moment is
// spread over a twentieth of the life, by the serial number.
func (i *Identity) RenewalDue() bool {
	c := i.credential()
	if c == nil {
		return false
	}
	if i.clock.contradicted() || i.Revoked(c.issuer) || i.wasRefused() {
		return true
	}
	life := c.leaf.NotAfter.Sub(c.leaf.NotBefore)
	spread := time.Duration(0)
	if n := c.leaf.SerialNumber; n != nil && n.BitLen() > 0 {
		spread = life / 20 * time.Duration(n.Bytes()[0]) / 256
	}
	now, _ := i.clock.now()
	return !now.Before(c.leaf.NotBefore.Add(life*2/3 - spread))
}

// noteRefused remembers that a server of the fleet did not accept the certificate. Now and then that is worth a renewal: the
// intermediate may have been replaced, or the certificate may have ended by the fleet's clock.
func (i *Identity) noteRefused() {
	now := i.opts.Uptime()
	i.mu.Lock()
	again := !i.refused && (i.refusedAt == 0 || now-i.refusedAt > refusedWait)
	if again {
		i.refused, i.refusedAt = true, max(now, 1)
	}
	i.mu.Unlock()
	if again {
		i.wake()
	}
}

func (i *Identity) wasRefused() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.refused
}

// backoff returns how long to wait now, with full jitter, and the bound for the next time.
func backoff(err error, wait time.Duration) (pause, next time.Duration) {
	limit := maxWait
	if errors.Is(err, ErrRefused) {
		limit = refusedWait
	}
	pause = minWait/2 + rand.N(wait)
	var r *Refusal
	if errors.As(err, &r) && r.RetryAfter > 0 {
		pause = r.RetryAfter + rand.N(r.RetryAfter)
	}
	return pause, min(2*wait, limit)
}

// sleep waits for the next tick, the next attempt, or a change.
func (i *Identity) sleep(ctx context.Context, next time.Duration) {
	changed := i.Changed()
	d := tickEvery
	if next > 0 {
		d = min(d, max(next-i.opts.Uptime(), minWait/10))
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changed:
	}
}

// attempted turns the outcome of an attempt into a health code.
func (i *Identity) attempted(err error) {
	var now health.Warning
	if err != nil {
		now = i.complaint(err)
		i.log.Warn("no certificate", "error", err)
		i.opts.Health.Raise(now)
	}
	for _, code := range []string{"enrolment-failed", "enrolment-refused", "renewal-failed", "renewal-refused"} {
		if code != now.Code {
			i.opts.Health.Clear(code)
		}
	}
}

func (i *Identity) complaint(err error) health.Warning {
	text := "The fleet manager gave no certificate: " + err.Error()
	const retries = "It is asked again; check the address of the fleet manager and the line."
	switch refused := errors.Is(err, ErrRefused); {
	case refused && i.Enrolled():
		return health.Warning{
			Code: "renewal-refused", Severity: health.Critical, Text: text,
			Action: "Ask the operator why, and enrol the box again with a new token.",
		}
	case refused:
		return health.Warning{
			Code: "enrolment-refused", Severity: health.Critical, Text: text,
			Action: "Give the box a new enrolment token.",
		}
	case i.Enrolled():
		return health.Warning{Code: "renewal-failed", Severity: health.Warn, Text: text, Action: retries}
	default:
		return health.Warning{Code: "enrolment-failed", Severity: health.Warn, Text: text, Action: retries}
	}
}

// checkHealth raises and clears the codes about the certificate as it stands.
func (i *Identity) checkHealth() {
	h, c := i.opts.Health, i.credential()
	set := func(on bool, w health.Warning) {
		if on {
			h.Raise(w)
		} else {
			h.Clear(w.Code)
		}
	}
	set(c == nil, health.Warning{
		Code: "not-enrolled", Severity: health.Critical,
		Text:   "The box has no certificate of the fleet yet, so it can fetch nothing.",
		Action: "Give it an enrolment token, or wait until the fleet manager answers.",
	})
	now, trusted := i.clock.now()
	set(!trusted, health.Warning{
		Code: "clock-untrusted", Severity: health.Info,
		Text:   "The clock is not trusted: no window opens and nothing expires until it is.",
		Action: "Check that the box's time synchronisation works.",
	})
	var text string
	var expired, revoked, expiring bool
	if c != nil {
		life := c.leaf.NotAfter.Sub(c.leaf.NotBefore)
		revoked = i.Revoked(c.peer.Serial)
		expired = now.After(c.leaf.NotAfter)
		expiring = !expired && now.After(c.leaf.NotAfter.Add(-life/6))
		text = fmt.Sprintf("The certificate of %s ends at %s.", c.peer.BoxID, c.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	set(expired, health.Warning{
		Code: "certificate-expired", Severity: health.Critical, Text: text,
		Action: "It renews itself when the fleet manager can be reached.",
	})
	set(expiring, health.Warning{
		Code: "certificate-expiring", Severity: health.Warn, Text: text,
		Action: "Check why the fleet manager does not renew it.",
	})
	set(revoked, health.Warning{
		Code: "certificate-revoked", Severity: health.Critical,
		Text: "The operator has revoked this box's certificate.", Action: "Enrol the box again with a new token.",
	})
}
