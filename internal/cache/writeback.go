package cache

import (
	"context"

	"boxd/internal/courtesy"
	"boxd/internal/durable"
)

// extent is bytes of a blob.
type extent struct {
	e      *entry
	off, n int64
}

// writeSoonFrom is the length of piece from which one more system call for each does not count.
const writeSoonFrom = 256 << 10

// writeSoon has the kernel begin to write a piece, so that the sync of a group does not come as one burst that a player
// would have to wait behind. Small pieces are left to the sync.
func (e *entry) writeSoon(i int) {
	off, n := e.span(i)
	if n < writeSoonFrom {
		return
	}
	select {
	case e.c.soon <- extent{e, off, n}:
	default: // the disk does not keep up: the sync takes them all
	}
}

// runWriteback starts writing in a thread of its own, whose idle priority the kernel gives to what it writes.
func (c *Cache) runWriteback(ctx context.Context) error {
	courtesy.IdleIO()
	for {
		select {
		case <-ctx.Done():
			return nil
		case x := <-c.soon:
			x.start()
		}
	}
}

func (x extent) start() {
	f, release, err := x.e.acquire(true)
	if err != nil {
		return // the sync will say so
	}
	defer release()
	if adv, ok := f.(durable.Adviser); ok {
		adv.Advise(durable.WriteSoon, x.off, x.n)
	}
}

// SetQuiet has work that nobody waits for rest, as while somebody watches: the scrub.
func (c *Cache) SetQuiet(quiet bool) { c.quiet.Store(quiet) }
