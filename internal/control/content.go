package control

import (
	"errors"
	"io"
	"time"
)

// What OpenFile fails with.
var (
	ErrNoAsset = errors.New("no such asset on this box")
	ErrNoFile  = errors.New("no such file in this asset")
)

// NotNowError says that nothing of a file is here and that nothing of it comes now, such as before its campaign begins.
type NotNowError struct {
	Code string // of the reason that status gives
	Text string // one sentence
}

func (e *NotNowError) Error() string { return e.Text }

// Content is one file of an asset, open for a player. Read gives verified bytes only and waits for those that are not
// here yet until the context of OpenFile ends.
type Content struct {
	io.ReadSeekCloser
	Name    string // last element of the path
	Type    string // content type, never empty
	ETag    string // strong, quoted (RFC 9110, section 8.8.3)
	Length  int64  // bytes
	ModTime time.Time
	// Send is Read and Write in one for the next n bytes, such that the kernel copies them when w is a connection. It
	// waits as Read does, and returns early only at the end of the file or with an error.
	Send func(w io.Writer, n int64) (int64, error)
	// Begin waits until it is known whether what begins at off comes, which is mostly known at once, and fails with a
	// *NotNowError when it does not. Nil: it comes.
	Begin func(off int64) error
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
