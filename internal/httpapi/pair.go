package httpapi

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"boxd/internal/control"
)

// Pairing of a browser in the home with the read-only page: the box's own screen shows a code, the phone sends it back.
const (
	codeLife    = 5 * time.Minute
	codeTries   = 5              // wrong codes, then a new code is needed
	tryGap      = time.Second    // least time between two tries, from whomever
	cookieName  = "boxd_paired"  // holds 32 random bytes
	cookieLife  = 90 * 24 * 3600 // seconds
	maxPairings = 16
)

// Pairings remembers paired browsers by the hash of their cookie.
type Pairings interface {
	Has(hash string) bool
	Add(hash string) error
}

// memPairings forgets when the process ends, and the oldest when there are too many.
type memPairings struct {
	mu   sync.Mutex // guards list
	list []string
}

func (m *memPairings) Has(hash string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.list {
		if subtle.ConstantTimeCompare([]byte(h), []byte(hash)) == 1 {
			return true
		}
	}
	return false
}

func (m *memPairings) Add(hash string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, hash)
	m.list = m.list[max(0, len(m.list)-maxPairings):]
	return nil
}

type pairing struct {
	store Pairings
	now   func() time.Time

	mu    sync.Mutex // guards the fields below
	code  string
	until time.Time
	tries int
	last  time.Time
}

func newPairing(store Pairings, now func() time.Time) *pairing {
	if store == nil {
		store = &memPairings{}
	}
	return &pairing{store: store, now: now}
}

// current returns the code to show, a new one when the last has been used up.
func (p *pairing) current() (code string, until time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.code == "" || !p.now().Before(p.until) {
		n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
		if err != nil {
			return "", time.Time{}, fmt.Errorf("make a pairing code: %w", err)
		}
		p.code, p.until, p.tries = fmt.Sprintf("%06d", n.Int64()), p.now().Add(codeLife), codeTries
	}
	return p.code, p.until, nil
}

// try gives a cookie for the right code.
func (p *pairing) try(code string) (cookie string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now.Sub(p.last) < tryGap {
		return "", errTooFast
	}
	p.last = now
	if p.code == "" || !now.Before(p.until) || p.tries <= 0 {
		return "", errNoCode
	}
	if subtle.ConstantTimeCompare([]byte(code), []byte(p.code)) != 1 {
		if p.tries--; p.tries <= 0 {
			p.code = ""
		}
		return "", errWrongCode
	}
	p.code = "" // once
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make a cookie: %w", err)
	}
	cookie = hex.EncodeToString(raw)
	if err := p.store.Add(hashCookie(cookie)); err != nil {
		return "", fmt.Errorf("remember the pairing: %w", err)
	}
	return cookie, nil
}

type pairError string

func (e pairError) Error() string { return string(e) }

const (
	errTooFast   = pairError("too many tries; wait a moment")
	errNoCode    = pairError("no code is being shown; open the status page on the box and choose Pair a phone")
	errWrongCode = pairError("that is not the code on the screen")
)

func hashCookie(c string) string {
	sum := sha256.Sum256([]byte(c))
	return hex.EncodeToString(sum[:])
}

func (p *pairing) paired(r *http.Request) bool {
	c, err := r.Cookie(cookieName)
	return err == nil && len(c.Value) == 64 && p.store.Has(hashCookie(c.Value))
}

// pairingAnswer is what the box's own screen shows.
type pairingAnswer struct {
	Here      bool      `json:"here"`    // asked on the box itself, not from another device of the home
	Enabled   bool      `json:"enabled"` // the LAN listener is on
	Code      string    `json:"code"`
	Until     time.Time `json:"until,omitzero"`
	Port      int       `json:"port"`
	Addresses []string  `json:"addresses"` // of this box in the home
}

// homeAddresses lists the IPv4 addresses under which the home's other devices reach this box.
func homeAddresses() []string {
	list := []string{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return list
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsPrivate() {
			list = append(list, p.Addr().String())
		}
	}
	return list
}

// pairingCode is for the box's own screen only.
func (s *Server) pairingCode(w http.ResponseWriter, _ *http.Request) {
	a := pairingAnswer{Here: true, Addresses: []string{}}
	if s.o.LAN != nil {
		code, until, err := s.pair.current()
		if err != nil {
			fail(w, http.StatusInternalServerError, control.CodeFailed, err.Error())
			return
		}
		a = pairingAnswer{Here: true, Enabled: true, Code: code, Until: until, Addresses: homeAddresses()}
		if t, ok := s.o.LAN.Addr().(*net.TCPAddr); ok {
			a.Port = t.Port
		}
	}
	answer(w, http.StatusOK, a)
}

// lanRoutes is what a paired browser of the home may see.
func (s *Server) lanRoutes() *http.ServeMux {
	mux := http.NewServeMux()
	s.readRoutes(mux)
	mux.HandleFunc("GET /api/v1/pairing", s.timed(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, pairingAnswer{Addresses: []string{}}) // the code is for the box's own screen only
	}))
	mux.HandleFunc("GET /pair", s.timed(s.page("pair.html")))
	mux.HandleFunc("POST /pair", s.timed(s.doPair))
	return mux
}

func (s *Server) doPair(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Code string `json:"code"`
	}
	if !readJSON(w, r, &req) {
		return
	}
	cookie, err := s.pair.try(strings.TrimSpace(req.Code))
	if err != nil {
		s.log.Info("pairing refused", "from", r.RemoteAddr, "error", err)
		fail(w, http.StatusForbidden, "pairing", err.Error())
		return
	}
	s.log.Info("browser paired", "from", r.RemoteAddr)
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // the home's page has no certificate; the cookie only lets read
		Name: cookieName, Value: cookie, Path: "/", MaxAge: cookieLife, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	answer(w, http.StatusOK, map[string]string{"status": "paired"})
}

// guardLAN lets unpaired browsers see the pairing page only, and everybody only read.
func (s *Server) guardLAN(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w)
		site := r.Header.Get("Sec-Fetch-Site")
		crossPage := site != "" && site != "same-origin" && site != "none" && r.Header.Get("Sec-Fetch-Mode") != "navigate"
		origin := r.Header.Get("Origin")
		switch {
		case !homeHost(r.Host):
			fail(w, http.StatusForbidden, "bad-host", "use the box's address, not a name from the internet")
		case crossPage || origin != "" && origin != "http://"+r.Host:
			fail(w, http.StatusForbidden, "origin", "other web pages may not ask")
		case r.Method == http.MethodPost && r.URL.Path == "/pair" && isJSON(r):
			next.ServeHTTP(w, r)
		case !isRead(r):
			fail(w, http.StatusMethodNotAllowed, "read-only", "this page is read-only")
		case r.URL.Path == "/pair" || isPagePart(r.URL.Path) || s.pair.paired(r):
			next.ServeHTTP(w, r)
		case r.URL.Path == "/":
			http.Redirect(w, r, "/pair", http.StatusSeeOther)
		default:
			fail(w, http.StatusUnauthorized, "not-paired", "open /pair first")
		}
	})
}

// homeHost accepts addresses and names that no public DNS server can point here: literals and .local.
func homeHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return strings.HasSuffix(host, ".local") || !strings.Contains(host, ".") && host != ""
}
