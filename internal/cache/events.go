package cache

import (
	"encoding/json"
	"errors"
	"sort"
	"time"

	"boxd/internal/asset"
)

// What an Event can be.
const (
	EventEvicted = "evicted" // the whole asset, to make room
	EventTrimmed = "trimmed" // its tail, to make room
	EventRemoved = "removed" // because somebody asked
	EventRefused = "refused" // there was no room for it
)

// Event is something that happened to the space of an asset.
type Event struct {
	Time   time.Time `json:"time"`
	ID     asset.ID  `json:"id"`
	Name   string    `json:"name"`
	What   string    `json:"what"`
	Bytes  int64     `json:"bytes"`
	Reason string    `json:"reason"`
}

const (
	maxEvents    = 256
	eventsBucket = "cache-events"
)

// record keeps the last event of each asset, and tells the log. The same refusal again is not news.
func (c *Cache) record(ev Event) {
	ev.Time, _ = c.o.Now()
	c.mu.Lock()
	var drop []asset.ID
	keep := c.events[:0]
	for _, old := range c.events {
		if old.ID == ev.ID {
			if old.What == ev.What && old.Reason == ev.Reason && ev.What == EventRefused {
				c.mu.Unlock()
				return
			}
			continue
		}
		keep = append(keep, old)
	}
	c.events = append(keep, ev)
	for len(c.events) > maxEvents {
		drop = append(drop, c.events[0].ID)
		c.events = c.events[1:]
	}
	c.mu.Unlock()
	c.o.Log.Info("cache space", "event", ev.What, "asset", ev.ID, "name", ev.Name, "bytes", ev.Bytes, "reason", ev.Reason)
	if c.o.State == nil {
		return
	}
	b, err := json.Marshal(ev)
	if err == nil {
		err = c.o.State.Put(eventsBucket, ev.ID[:], b)
	}
	for _, id := range drop {
		err = errors.Join(err, c.o.State.Delete(eventsBucket, id[:]))
	}
	if err != nil {
		c.o.Log.Warn("event not stored", "err", err)
	}
}

func (c *Cache) loadEvents() {
	if c.o.State == nil {
		return
	}
	err := c.o.State.Each(eventsBucket, func(_, v []byte) error {
		var ev Event
		if json.Unmarshal(v, &ev) == nil && len(c.events) < maxEvents {
			c.events = append(c.events, ev)
		}
		return nil
	})
	if err != nil {
		c.o.Log.Warn("events cannot be read", "err", err)
	}
	sort.SliceStable(c.events, func(i, j int) bool { return c.events[i].Time.Before(c.events[j].Time) })
}

// Events lists what happened to the space last, one event for each asset, oldest first.
func (c *Cache) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Event(nil), c.events...)
}

// Why returns the last event of an asset.
func (c *Cache) Why(id asset.ID) (Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ev := range c.events {
		if ev.ID == id {
			return ev, true
		}
	}
	return Event{}, false
}
