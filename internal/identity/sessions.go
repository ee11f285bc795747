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

// sessionsWith keeps the sessions with the fleet's servers, each used once: a server that fails to resume one must not shut
// this box out. They are known by the certificate that was shown, too, so that one that comes late brings no old one back.
type sessionsWith struct {
	all    *sessions
	serial string
}

func (s sessionsWith) key(host string) string { return "server " + s.serial + " " + host }

func (s sessionsWith) Get(host string) (*tls.ClientSessionState, bool) {
	cache := s.all.current()
	cs, ok := cache.Get(s.key(host))
	if ok {
		cache.Put(s.key(host), nil)
	}
	return cs, ok
}

func (s sessionsWith) Put(host string, cs *tls.ClientSessionState) {
	s.all.current().Put(s.key(host), cs)
}
