package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fleet/registry"
)

// Stage is one step of a staged rollout.
type Stage struct {
	PerMille int              `json:"per_mille"`      // of the group, all stages before included
	Hold     catalog.Duration `json:"hold,omitempty"` // least time at this stage
}

// Staged is a rollout that widens by itself while it goes well and stops itself when it does not.
type Staged struct {
	Stages  []Stage  `json:"stages"`
	Cohorts []string `json:"cohorts,omitempty"` // boxes (by id), or groups, that are in from the first stage
	// Success is the share of the stage's boxes (above 0, to 1) that must hold all assets before the next stage; 0.95 when it is
	// left out.
	Success *float64 `json:"success,omitempty"`
	// MaxErrors is the share of the stage's boxes that may have failed or rejected an asset, or have vanished; above it the
	// campaign is paused. 0.05 when it is left out; at 0 the first one stops it.
	MaxErrors *float64 `json:"max_errors,omitempty"`
	// MinBoxes is how many boxes must have finished, failed or vanished before shares are judged; 0 means 1.
	MinBoxes int `json:"min_boxes,omitempty"`

	Stage int       `json:"stage"` // index into Stages
	Since time.Time `json:"since,omitzero"`
	Done  bool      `json:"done"` // the last stage was reached
	// Forgiven is how many of the boxes that had failed when the rollout was resumed still do: they do not stop it again.
	Forgiven int `json:"forgiven,omitempty"`
	// Fewer is set while fewer have failed than are forgiven.
	Fewer *Fewer `json:"fewer,omitempty"`
	// Stopped is true when the rollout paused the campaign itself.
	Stopped bool `json:"stopped,omitempty"`
}

// Fewer is since when fewer boxes have failed than are forgiven, and how many at most at a time.
type Fewer struct {
	Since time.Time `json:"since"`
	Most  int       `json:"most"`
}

// fewerFor is how long fewer boxes must have failed before fewer are forgiven: one that tries again has not failed for a while,
// and its tries are at most 10 minutes apart.
const fewerFor = 30 * time.Minute

// recount learns how many boxes have failed now, and reports whether that is to be written down.
func (s *Staged) recount(now time.Time, failed int) bool {
	switch w := s.Fewer; {
	case failed >= s.Forgiven:
		s.Fewer = nil
		return w != nil
	case w == nil || w.Since.Before(s.Since): // resumed or widened since
		s.Fewer = &Fewer{Since: now.UTC(), Most: failed}
	case now.Sub(w.Since) > fewerFor: // they got well: what fails from now on is new
		s.Forgiven, s.Fewer = max(w.Most, failed), nil
	case failed > w.Most:
		s.Fewer = &Fewer{Since: w.Since, Most: failed}
	default:
		return false
	}
	return true
}

func (s *Staged) start(c *catalog.Campaign, now time.Time) error {
	last := 0
	var errs []error
	for i, st := range s.Stages {
		if st.PerMille <= last && (i > 0 || st.PerMille < 0) || st.PerMille > 1000 {
			errs = append(errs, fmt.Errorf("stages[%d]: per_mille %d after %d", i, st.PerMille, last))
		}
		if st.Hold < 0 {
			errs = append(errs, fmt.Errorf("stages[%d]: hold is negative", i))
		}
		last = st.PerMille
	}
	if len(s.Stages) == 0 || len(s.Stages) > 32 {
		errs = append(errs, fmt.Errorf("%d stages, want 1 to 32", len(s.Stages)))
	}
	s.Success, s.MaxErrors = orElse(s.Success, 0.95), orElse(s.MaxErrors, 0.05)
	if *s.Success == 0 { // one box that is ready would do; fleetd campaign create once sent it when nobody had asked for it
		errs = append(errs, errors.New("success must be above 0; leave it out for 0.95"))
	}
	if !isShare(*s.Success) || !isShare(*s.MaxErrors) || s.MinBoxes < 0 {
		errs = append(errs, errors.New("success and max_errors are shares from 0 to 1, min_boxes is not negative"))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if s.MinBoxes == 0 {
		s.MinBoxes = 1
	}
	s.Stage, s.Since, s.Done, s.Forgiven, s.Fewer, s.Stopped = 0, now.UTC(), len(s.Stages) == 1, 0, nil, false
	c.Rollout = &catalog.Rollout{PerMille: s.Stages[0].PerMille, Cohorts: s.Cohorts}
	return nil
}

// checkCohorts refuses the names of boxes that the campaign could not reach: its first stage would wait for them for ever.
func (f *Fleet) checkCohorts(ctx context.Context, c *Campaign) error {
	if c.Staged == nil {
		return nil
	}
	var faults []error
	for _, name := range c.Staged.Cohorts {
		if name == c.Group {
			continue
		}
		switch group := f.GroupOf(ctx, name); group {
		case c.Group:
		case "":
			faults = append(faults, fmt.Errorf("%w: there is no box %s of group %s for a cohort", ErrBad, name, c.Group))
		default:
			faults = append(faults, fmt.Errorf("%w: box %s is of group %s, and the campaign is for group %s", ErrBad, name, group, c.Group))
		}
	}
	return errors.Join(faults...)
}

func isShare(v float64) bool { return v >= 0 && v <= 1 }

func orElse(v *float64, other float64) *float64 {
	if v == nil {
		return &other
	}
	return v
}

// rolloutItself is who changes a campaign when no user does.
const rolloutItself = "rollout"

// stepRollouts lets each staged campaign take its next step. One that fails keeps no other from taking its own.
func (f *Fleet) stepRollouts(ctx context.Context) error {
	list, err := f.Campaigns(ctx, false)
	if err != nil {
		return err
	}
	var faults []error
	f.waits = map[string]string{}
	for i := range list {
		if err := f.stepRollout(ctx, &list[i]); err != nil {
			faults = append(faults, fmt.Errorf("rollout of campaign %s: %w", list[i].ID, err))
		}
	}
	return errors.Join(faults...)
}

func (f *Fleet) stepRollout(ctx context.Context, c *Campaign) error {
	if c.State == CampaignDrafted {
		return f.adoptDrafted(ctx, c)
	}
	if c.Staged == nil || c.State != CampaignRunning {
		return nil
	}
	n, err := f.count(ctx, c)
	if err != nil {
		return err
	}
	if now, next := f.now(), *c.Staged; next.recount(now, n.Failed) {
		if err := f.forgive(ctx, c, now, n.Failed); err != nil {
			return err
		}
	}
	verdict, why := c.Staged.judge(f.now(), n)
	switch verdict {
	case verdictStop:
		_, err = f.SetCampaignState(ctx, rolloutItself, c.ID, CampaignPaused, why)
	case verdictAdvance:
		err = f.advance(ctx, c.ID, c.Staged.Stage, n)
	default:
		if why := c.Staged.waitsForNobody(f.now(), n); why != "" {
			f.waits[c.ID] = why
		}
	}
	return err
}

// forgive writes down how many failed boxes do not stop a rollout. Boxes learn nothing of it.
func (f *Fleet) forgive(ctx context.Context, c *Campaign, now time.Time, failed int) error {
	f.editing.Lock()
	defer f.editing.Unlock()
	return registry.EditDoc(ctx, f.o.Registry, tableCampaigns, c.ID, func(doc *Campaign) error {
		if doc.Staged == nil || !doc.Staged.Since.Equal(c.Staged.Since) { // resumed or widened meanwhile
			return fmt.Errorf("%w: campaign %s moved on meanwhile", ErrConflict, c.ID)
		}
		doc.Staged.recount(now, failed)
		c.Staged.Forgiven, c.Staged.Fewer = doc.Staged.Forgiven, doc.Staged.Fewer
		return nil
	})
}

func (f *Fleet) advance(ctx context.Context, id string, from int, n Counts) error {
	c, err := f.editCampaign(ctx, id, func(c *Campaign) error {
		s := c.Staged
		if s == nil || s.Stage != from || c.State != CampaignRunning {
			return fmt.Errorf("%w: campaign %s moved on meanwhile", ErrConflict, id)
		}
		s.Stage++
		s.Since = f.now().UTC()
		s.Done = s.Stage == len(s.Stages)-1
		s.Forgiven = min(s.Forgiven, n.Included-n.Ready) // one that tries again has not failed, but it is not ready either
		c.Rollout = &catalog.Rollout{PerMille: s.Stages[s.Stage].PerMille, Cohorts: s.Cohorts}
		return nil
	})
	if err != nil {
		return err
	}
	return f.o.Registry.Audit(
		ctx,
		rolloutItself,
		"campaign-stage",
		id,
		fmt.Sprintf(
			"stage %d: %d of 1000 boxes, after %d of %d were ready",
			c.Staged.Stage+1,
			perMille(c.Rollout),
			n.Ready,
			n.Included,
		),
	)
}
