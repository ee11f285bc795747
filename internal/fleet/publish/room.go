package publish

import (
	"errors"
	"fmt"
	"io"

	"boxd/internal/durable"
)

// ErrNoRoom is returned rather than to fill the manager's disk, on which its database and broker write too.
var ErrNoRoom = errors.New("the manager's disk has no room for it")

const (
	keepFree  = 1 << 30 // bytes of a large disk; a twentieth of a small one
	roomEvery = 8 << 20 // bytes written between two looks
)

// free tells what is left on a directory's disk, and its size; tests replace it.
var free = durable.OS().Free

// Roomy writes to a file in a directory until its disk has no more than a reserve left.
type Roomy struct {
	io.Writer
	Dir   string
	since int64 // bytes since the last look; at first none were
	begun bool
}

func (r *Roomy) Write(p []byte) (int, error) {
	if err := r.look(len(p)); err != nil {
		return 0, err
	}
	return r.Writer.Write(p)
}

// look counts bytes that are about to be written, and refuses them when there is no room.
func (r *Roomy) look(n int) error {
	if r.since += int64(n); r.begun && r.since < roomEvery {
		return nil
	}
	left, total, err := free(r.Dir)
	if err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if left-r.since < min(keepFree, total/20) {
		return fmt.Errorf("%w: %d bytes are left", ErrNoRoom, left)
	}
	r.begun, r.since = true, 0
	return nil
}
