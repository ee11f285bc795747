package operate

import (
	"context"
	"time"

	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

// Which boxes live: who connects and who is heard of is noted in memory and written together.

// Tele notes that a box lives. It does not block: the times are written together.
func (f *Fleet) Tele(m mqttwire.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lastSeen) < 1<<20 {
		f.lastSeen[m.Topic.Box] = m.Received
	}
}

// Connecting tells of a box that the broker has let in, with its group as its certificate has it. It writes nothing: a
// storm of connects must not wait for the disk. What is new is written with the first batch of messages.
func (f *Fleet) Connecting(box, group string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.groupOf[box] == group && group != "" {
		return
	}
	f.groupOf[box] = group
	f.newBoxes[box] = group
	if _, told := f.wants[ops.GroupPrefix+group]; !told && mqttwire.ValidName(group) {
		select {
		case f.newGroup <- struct{}{}:
		default:
		}
	}
}

// admitBoxes writes the boxes that Connecting told of.
func (f *Fleet) admitBoxes(ctx context.Context) error {
	f.mu.Lock()
	fresh := f.newBoxes
	f.newBoxes = map[string]string{}
	f.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	err := f.o.Registry.PutBoxes(ctx, fresh)
	if err != nil {
		f.storeFailed()
		f.mu.Lock()
		for box, group := range fresh {
			if _, newer := f.newBoxes[box]; !newer {
				f.newBoxes[box] = group
			}
		}
		f.mu.Unlock()
	}
	return err
}

// flushMost bounds how long a write may hang before it is tried again.
const flushMost = time.Minute

// flushSeen writes who was heard of. When it returns without a fault, all is written that was heard before.
func (f *Fleet) flushSeen(ctx context.Context) error {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, flushMost)
	defer cancel()
	f.mu.Lock()
	seen := f.lastSeen
	f.lastSeen = map[string]time.Time{}
	for box, at := range f.sentTo {
		if f.now().Sub(at) > time.Minute {
			delete(f.sentTo, box)
		}
	}
	f.mu.Unlock()
	err := f.admitBoxes(ctx)
	if err == nil {
		err = f.o.Registry.Touch(ctx, seen)
	}
	if err == nil {
		return nil
	}
	f.storeFailed()
	f.mu.Lock()
	defer f.mu.Unlock()
	for box, at := range seen {
		if f.lastSeen[box].Before(at) {
			f.lastSeen[box] = at
		}
	}
	return err
}

// storeFailed notes that what boxes say may not have got to the database: for a while their silence there proves nothing.
func (f *Fleet) storeFailed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listening = f.now()
}

// markSilent takes boxes to be offline of which nothing was heard, once this fleetd has listened for long enough and could write
// down what it heard all the while.
func (f *Fleet) markSilent(ctx context.Context) error {
	f.mu.Lock()
	listened := f.now().Sub(f.listening)
	f.mu.Unlock()
	if listened <= silentAfter {
		return nil
	}
	before := f.now().Add(-silentAfter)
	if err := f.flushSeen(ctx); err != nil { // what is in memory counts
		return err
	}
	_, err := f.o.Registry.MarkSilent(ctx, before)
	return err
}
