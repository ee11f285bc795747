package origin

import (
	"errors"
	"net/url"
	"sync"
	"time"
)

// errLeave is why a server is not asked that told another asset's source to come back later.
var errLeave = errors.New("asked so for another asset")

// maxServers bounds what Servers remembers.
const maxServers = 64

// Servers remembers which servers have asked to be left alone (Retry-After), whichever asset they were asked for: a server
// that has too much to do is not asked for the next asset in its place.
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

// leave notes that a server is not to be asked before a moment.
func (s *Servers) leave(address string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
