package server

import (
	"context"
	"sync"
	"time"
)

// shutTime is how long a box is kept out after it filled the broker's store.
const shutTime = time.Hour

// shutBoxes are boxes that are kept out for a while. Zero is ready to use.
type shutBoxes struct {
	mu    sync.Mutex // guards boxes
	boxes map[string]time.Time
}

// add reports whether the box was not shut out already.
func (b *shutBoxes) add(box string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, until := range b.boxes {
		if now.After(until) {
			delete(b.boxes, id)
		}
	}
	if _, there := b.boxes[box]; there {
		return false
	}
	if b.boxes == nil {
		b.boxes = map[string]time.Time{}
	}
	b.boxes[box] = now.Add(shutTime)
	return true
}

func (b *shutBoxes) until(box string, now time.Time) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, there := b.boxes[box]
	return until, there && now.Before(until)
}

// shutOut is called for each message that a box may not retain.
func (s *Server) shutOut(box string) {
	if !s.shut.add(box, s.o.Now()) {
		return
	}
	s.log.Error("a box fills the broker's store with retained messages; it is shut out", "box", box, "for", shutTime.String())
	go func() { // closing its connection takes a moment
		if _, err := s.bus.Kick(box); err != nil {
			s.log.Warn("connection not closed", "box", box, "err", err)
		}
		if err := s.reg.Audit(context.Background(), "fleetd", "shut-out", box, "it filled the broker's store"); err != nil {
			s.log.Warn("not written to the audit log", "box", box, "err", err)
		}
	}()
}
