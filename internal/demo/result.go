package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// MaxCopies is how many copies of an asset the origin may send into the home, before the demonstration counts as failed.
const MaxCopies = 1.02

// Result is what came of it.
type Result struct {
	Took   time.Duration
	Boxes  []BoxResult
	Films  []FilmResult
	Faults []string // empty: all is as it should be
}

// BoxResult is one box at the end.
type BoxResult struct {
	Name, ID          string
	LAN, Peer, Origin int64 // bytes of all assets
	PeakRSS           int64
	Couriers          int // assets that it carried over the access line
}

// FilmResult is one asset at the end.
type FilmResult struct {
	Name        string
	ID          string
	Length      int64
	OriginBytes int64
	Copies      float64
	Proofs      int
}

// Wait draws the boxes until every asset is ready on every box, and then judges.
func (h *Home) Wait(ctx context.Context) (*Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.Deadline,
		fmt.Errorf("not everything arrived within %v", h.Deadline))
	defer cancel()
	view := &view{home: h}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		states, err := h.statuses(ctx)
		if err != nil {
			return nil, err
		}
		view.draw(states)
		if h.allReady(states) {
			view.end()
			return h.judge(ctx, time.Since(h.Began))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w:\n%s", context.Cause(ctx), h.explain(states))
		case <-tick.C:
		}
	}
}

// statuses asks every box that runs; one that was killed has an empty status.
func (h *Home) statuses(ctx context.Context) ([]Status, error) {
	list := make([]Status, len(h.Boxes))
	if err := h.Fleet.proc.ended(); err != nil {
		return nil, err
	}
	for i, b := range h.Boxes {
		if err := b.proc.ended(); err != nil {
			return nil, err
		}
		st, err := b.Status(ctx)
		if err != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%s: %w\n%s", b.Name, err, b.proc.tail)
		}
		list[i] = st
	}
	return list, nil
}

func (h *Home) allReady(states []Status) bool {
	for i := range states {
		for _, f := range h.Films {
			if states[i].Asset(f.ID).State != "ready" {
				return false
			}
		}
	}
	return true
}

// explain says for every box what is not ready and why.
func (h *Home) explain(states []Status) (text string) {
	for i, st := range states {
		for _, f := range h.Films {
			if a := st.Asset(f.ID); a.State != "ready" {
				text += fmt.Sprintf("%s: %s is %q with %s of %s: %s\n",
					h.Boxes[i].Name, f.Name, a.State, size(a.Verified), size(f.Length), a.Why)
			}
		}
		for _, w := range st.Health {
			text += fmt.Sprintf("%s: health %s: %s\n", h.Boxes[i].Name, w.Code, w.Text)
		}
	}
	return text
}

// judge reads every asset back from every box, and compares what boxes, origin and fleet manager say.
func (h *Home) judge(ctx context.Context, took time.Duration) (*Result, error) {
	r := &Result{Took: took}
	states, err := h.statuses(ctx)
	if err != nil {
		return nil, err
	}
	for i, b := range h.Boxes {
		br := BoxResult{Name: b.Name, ID: states[i].Box.ID, PeakRSS: b.peakRSS}
		if br.ID == "" {
			r.fault("%s does not say which box it is", b.Name)
		}
		for _, f := range h.Films {
			a := states[i].Asset(f.ID)
			br.LAN, br.Peer, br.Origin = br.LAN+a.Bytes.LAN, br.Peer+a.Bytes.Peer, br.Origin+a.Bytes.Origin
			if a.Bytes.Origin > 0 {
				br.Couriers++
			}
			sum, err := b.Fetch(ctx, f.ID, filepath.Base(f.Source))
			switch {
			case err != nil:
				r.fault("%s: reading %s back: %v", b.Name, f.Name, err)
			case sum != f.SHA256:
				r.fault("%s: %s has the wrong bytes: SHA-256 %s, published was %s", b.Name, f.Name, sum, f.SHA256)
			}
		}
		r.Boxes = append(r.Boxes, br)
	}
	sent, err := h.Fleet.OriginBytes(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range h.Films {
		fr := FilmResult{Name: f.Name, ID: f.ID, Length: f.Length, OriginBytes: sent[f.ID]}
		fr.Copies = float64(fr.OriginBytes) / float64(f.Length)
		if fr.Copies > MaxCopies || fr.Copies < 1 {
			r.fault("the origin sent %.3f copies of %s into the home; want 1 to %.2f", fr.Copies, f.Name, MaxCopies)
		}
		if h.Options.Brokers == nil {
			if fr.Proofs, err = h.awaitProofs(ctx, f.ID); err != nil {
				r.fault("%s: %v", f.Name, err)
			}
		}
		r.Films = append(r.Films, fr)
	}
	return r, nil
}

// awaitProofs waits until the fleet manager has a proof of arrival of every box.
func (h *Home) awaitProofs(ctx context.Context, id string) (n int, err error) {
	err = h.Fleet.proc.until(ctx, "a proof of arrival of every box", time.Minute, func(ctx context.Context) error {
		list, err := h.Fleet.Proofs(ctx, id)
		if err != nil {
			return err
		}
		boxes := map[string]bool{}
		for _, p := range list {
			boxes[p.Box] = true
		}
		if n = len(boxes); n < len(h.Boxes) {
			return errNotYet
		}
		return nil
	})
	return n, err
}

func (r *Result) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// Err is nil when all is as it should be.
func (r *Result) Err() error {
	var errs []error
	for _, f := range r.Faults {
		errs = append(errs, errors.New(f))
	}
	return errors.Join(errs...)
}

// Print writes the closing table.
func (h *Home) Print(r *Result) {
	w := tabwriter.NewWriter(h.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "\nbox\tid\tfrom origin\tfrom peers\tfrom the home\tpeak memory\n")
	for _, b := range r.Boxes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", b.Name, b.ID, size(b.Origin), size(b.Peer), size(b.LAN), size(b.PeakRSS))
	}
	fmt.Fprintf(w, "\nasset\tsize\torigin sent\tcopies into the home\tproofs of arrival\n")
	for _, f := range r.Films {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.3f\t%d of %d\n", f.Name, size(f.Length), size(f.OriginBytes), f.Copies, f.Proofs, len(h.Boxes))
	}
	_ = w.Flush() // to a terminal or a buffer: nothing to be done about it
	if err := r.Err(); err != nil {
		h.say("\nNot as it should be:\n%v", err)
		return
	}
	h.say("\nAll verified: every box returned the published bytes (SHA-256 compared). It took %.1f s.", r.Took.Seconds())
}

// PrintAddresses says where to look.
func (h *Home) PrintAddresses() {
	w := tabwriter.NewWriter(h.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "\nfleet dashboard\t%s/\n", h.Fleet.API())
	for _, b := range h.Boxes {
		fmt.Fprintf(w, "%s, status page\t%s/\n", b.Name, b.URL())
	}
	for _, f := range h.Films[:1] {
		fmt.Fprintf(w, "%s, played from %s\t%s/assets/%s/%s\n",
			f.Name, h.Boxes[0].Name, h.Boxes[0].URL(), f.ID, filepath.Base(f.Source))
	}
	_ = w.Flush() // to a terminal or a buffer: nothing to be done about it
}
