package identity

import (
	"crypto/tls"
	"sync"
)

// resumeSessions is how many sessions a box remembers to resume, about 3 KiB each.
const resumeSessions = 64

// sessions remembers TLS sessions by the box at the other end. They carry the certificate that this box showed, so a new
// certificate forgets them.
type sessions struct {
	mu    sync.Mutex // guards cache
	cache tls.ClientSessionCache
}

func newSessions() *sessions {
	s := &sessions{}
	s.forget()
	return s
}

func (s *sessions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache = tls.NewLRUClientSessionCache(resumeSessions)
}

func (s *sessions) current() tls.ClientSessionCache {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cache
}

// sessionsOf keeps the sessions of one box apart from those of others, which dial with the same server name (SNI).
type sessionsOf struct {
	all *sessions
	key string
}

func (s sessionsOf) Get(string) (*tls.ClientSessionState, bool) { return s.all.current().Get(s.key) }

func (s sessionsOf) Put(_ string, cs *tls.ClientSessionState) { s.all.current().Put(s.key, cs) }
