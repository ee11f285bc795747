package mgmt

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// proven is what the arrived event of an asset said, kept so that its erased event can be made from it.
type proven struct {
	Name      string `json:"name,omitempty"`
	Publisher string `json:"publisher,omitempty"`
	Campaign  string `json:"campaign,omitempty"`
	Size      int64  `json:"size"`
}

// collect turns changes of the holdings into events, connected or not. It compares what the box holds with what was
// proven, so an arrival that found the outbox full, or happened while this program was down, is proven later.
func (m *Manager) collect(ctx context.Context) error {
	known, err := m.loadProven()
	if err != nil {
		return err
	}
	for {
		changed, room := m.o.Box.Changed(), m.outbox.Changed()
		full := false
		err := m.collectOnce(known)
		if errors.Is(err, errOutboxFull) {
			full = true
		} else if err != nil {
			return err
		}
		if !full {
			room = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-room:
		}
		sleep(ctx, 200*time.Millisecond) // many changes come together; one commit costs two syncs
	}
}

func (m *Manager) loadProven() (map[asset.ID]proven, error) {
	known := map[asset.ID]proven{}
	err := m.o.DB.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketProven))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			var p proven
			if len(k) == asset.HashSize && json.Unmarshal(v, &p) == nil {
				known[asset.ID(k)] = p
			}
			return nil
		})
	})
	return known, dbErr("load proofs", err)
}

func (m *Manager) collectOnce(known map[asset.ID]proven) error {
	rep := m.o.Box.Report()
	if !rep.HoldingsKnown {
		return nil
	}
	now, trusted := m.o.Now()
	held := make(map[asset.ID]bool, len(rep.Holdings))
	var events []*mqttwire.Event
	counting := map[asset.ID]time.Time{}
	for _, h := range rep.Holdings {
		held[h.ID] = true
		if _, done := known[h.ID]; done {
			continue
		}
		ev := &mqttwire.Event{
			Kind: mqttwire.EventArrived, Asset: h.ID, Name: clip(h.Name, mqttwire.MaxText),
			Publisher: clip(h.Publisher, 64), Campaign: clip(h.Campaign, 64),
			Size: h.Size, From: h.From, At: h.At, Trusted: h.Trusted,
		}
		if ev.At.IsZero() {
			ev.At, ev.Trusted = now, trusted
		}
		events = append(events, ev)
		counting[h.ID] = h.Counting
	}
	for id, p := range known {
		if held[id] {
			continue
		}
		events = append(events, &mqttwire.Event{
			Kind: mqttwire.EventErased, Asset: id, Name: p.Name, Publisher: p.Publisher, Campaign: p.Campaign,
			Size: p.Size, At: now, Trusted: trusted, Reason: clip(rep.Gone[id], 64),
		})
	}
	m.countLost(held)
	if len(events) == 0 {
		return nil
	}
	slices.SortStableFunc(events, func(a, b *mqttwire.Event) int { return a.At.Compare(b.At) })
	room := m.outbox.room()
	full := len(events) > room
	if full {
		m.noteUnproven(events[room:])
		events = events[:room]
	}
	if err := m.commitEvents(events, counting, known); err != nil {
		return err
	}
	if full {
		return errOutboxFull
	}
	return nil
}

// noteUnproven remembers arrivals that found no room in the outbox.
func (m *Manager) noteUnproven(events []*mqttwire.Event) {
	for _, ev := range events {
		if ev.Kind == mqttwire.EventArrived {
			m.unproven[ev.Asset] = true
		}
	}
}

// countLost counts the arrivals that found no room and were erased before there was any: the only loss there can be.
func (m *Manager) countLost(held map[asset.ID]bool) {
	for id := range m.unproven {
		if !held[id] {
			m.lost.Add(1)
			delete(m.unproven, id)
		}
	}
}

// commitEvents writes the events and what was proven in one transaction, then updates known. counting says since when the
// counters run that arrivals carry.
func (m *Manager) commitEvents(events []*mqttwire.Event, counting map[asset.ID]time.Time, known map[asset.ID]proven) error {
	if len(events) == 0 {
		return nil
	}
	next := maps.Clone(known)
	err := m.o.DB.Update(func(tx *bbolt.Tx) error {
		b, err := bucket(tx, bucketProven)
		if err != nil {
			return err
		}
		for _, ev := range events {
			told := *ev
			if ev.Kind == mqttwire.EventArrived {
				if told.From, err = bill(tx, ev.Asset, counting[ev.Asset], ev.From); err != nil {
					return err
				}
			}
			if _, err := m.outbox.add(tx, outboxRecord{Event: &told}); err != nil {
				return err
			}
			if ev.Kind == mqttwire.EventErased {
				delete(next, ev.Asset)
				if err := b.Delete(ev.Asset[:]); err != nil {
					return err
				}
				continue
			}
			delete(m.unproven, ev.Asset)
			p := proven{Name: ev.Name, Publisher: ev.Publisher, Campaign: ev.Campaign, Size: ev.Size}
			next[ev.Asset] = p
			data, err := json.Marshal(p)
			if err != nil {
				return err
			}
			if err := b.Put(ev.Asset[:], data); err != nil {
				return err
			}
		}
		return forgetBilled(tx)
	})
	if err != nil {
		return dbErr("commit proofs", err)
	}
	clear(known)
	maps.Copy(known, next)
	m.outbox.added(len(events))
	return nil
}
