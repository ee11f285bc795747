package origin

import (
	"errors"
	"net/url"
	"sync"
	"time"
)

// errLeave is why a server is not asked that told another asset's source to come back later.
var errLeave = errors.New("asked so for another asset")

// maxServers bounds what Servers remembers, and maxLeave for how long: what one asset was told is no more than a hint for
// the others.
const (
	maxServers = 64
	maxLeave   = 10 * time.Minute
)

// Servers remembers which servers have too much to do and asked to be left alone (Retry-After), whichever asset they were
// asked for: such a server is not asked for the next asset in its place.
type Servers struct {
	mu  sync.Mutex // guards the field below
	all map[string]time.Time
}

func serverOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// leave notes that a server is not to be asked before a moment, unless a later one is noted.
func (s *Servers) leave(address string, until, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := now.Add(maxLeave); until.After(most) {
		until = most
	}
	if !until.After(s.all[serverOf(address)]) {
		return
	}
	if s.all == nil || len(s.all) >= maxServers {
		s.all = map[string]time.Time{}
	}
	s.all[serverOf(address)] = until
}

func (s *Servers) until(address string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[serverOf(address)]
}
