package control

import (
	"errors"
	"io"
	"os"
	"time"
)

// What OpenFile fails with.
var (
	ErrNoAsset = errors.New("no such asset on this box")
	ErrNoFile  = errors.New("no such file in this asset")
)

// Content is one file of an asset, open for a player. Read gives verified bytes only and waits for those that are not
// here yet until the context of OpenFile ends.
type Content struct {
	io.ReadSeekCloser
	Name    string // last element of the path
	Type    string // content type, never empty
	ETag    string // strong, quoted (RFC 9110, section 8.8.3)
	Length  int64  // bytes
	ModTime time.Time
	// Whole returns the file that holds all the content's bytes, and where in it they begin, so that the kernel can
	// send them. It returns false while a piece is missing.
	Whole func() (f *os.File, off int64, ok bool)
}

// Day is the schedule played forward, as `boxd schedule` prints it.
type Day struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Slots []Slot    `json:"slots"`
}

// Slot is one stretch of a Day.
type Slot struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Active []string  `json:"active"` // ids of the assets that use the access line, most urgent first
	Done   []string  `json:"done"`   // expected to be complete at To
	Reason string    `json:"reason"` // when nothing is active: why
}
