// Package health holds what is wrong with this box right now: named warnings with a code, a severity and what to do.
// Any package may raise one; the faces (status, MQTT, the status page) show them all.
//
// Invariants: a code is there at most once; raising it again with the same text changes nothing and wakes nobody;
// the number of warnings is bounded by the number of codes in the program, each of which docs/operating.md explains.
package health

import (
	"sort"
	"sync"
	"time"
)

// Severity says how much a warning matters.
type Severity string

// The severities, worst last.
const (
	Info     Severity = "info"     // worth knowing, nothing to do
	Warn     Severity = "warning"  // works, but not as it should
	Critical Severity = "critical" // something that the box is for does not work
)

// Warning is one thing that is wrong.
type Warning struct {
	Code     string    `json:"code"` // kebab-case, stable, e.g. "disk-full"
	Severity Severity  `json:"severity"`
	Text     string    `json:"text"`   // what is wrong, in plain words
	Action   string    `json:"action"` // what a person should do about it; empty when it mends itself
	Since    time.Time `json:"since"`
}

// Set is the warnings of one box. Its methods may be called from any goroutine; a nil *Set takes and forgets.
type Set struct {
	now     func() time.Time
	mu      sync.Mutex // guards the fields below
	byCode  map[string]Warning
	changed chan struct{}
}

// New returns an empty set; now is the clock for Since (nil means time.Now).
func New(now func() time.Time) *Set {
	if now == nil {
		now = time.Now
	}
	return &Set{now: now, byCode: map[string]Warning{}, changed: make(chan struct{})}
}

// Raise adds a warning or replaces the one with the same code, keeping its Since.
func (s *Set) Raise(w Warning) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.byCode[w.Code]
	w.Since = s.now()
	if had {
		w.Since = old.Since
	}
	if had && old == w {
		return
	}
	s.byCode[w.Code] = w
	s.wake()
}

// Clear removes the warning with this code, if there is one.
func (s *Set) Clear(code string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, had := s.byCode[code]; had {
		delete(s.byCode, code)
		s.wake()
	}
}

// Has reports whether the warning is raised.
func (s *Set) Has(code string) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.byCode[code]
	return ok
}

// List returns the warnings, worst first, then by code.
func (s *Set) List() []Warning {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Warning, 0, len(s.byCode))
	for _, w := range s.byCode {
		list = append(list, w)
	}
	sort.Slice(list, func(i, j int) bool {
		if a, b := rank(list[i].Severity), rank(list[j].Severity); a != b {
			return a > b
		}
		return list[i].Code < list[j].Code
	})
	return list
}

// Changed returns a channel that is closed at the next change.
func (s *Set) Changed() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Set) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func rank(v Severity) int {
	switch v {
	case Critical:
		return 2
	case Warn:
		return 1
	default:
		return 0
	}
}
