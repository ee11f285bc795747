package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// A session is a signed note of who signed in, kept in a cookie that no script can read and only this site's own pages
// send. It is not the token: what reads the cookie has it for hours, not for good. A change also needs the session's
// second half, which only a page of this very origin can ask for.
type session struct {
	Name    string `json:"n"`
	Token   string `json:"t"` // start of the hash of the token: a session ends with its token
	Expires int64  `json:"e"` // seconds since 1970
}

const (
	sessionCookie = "fleetd"
	sessionLife   = 12 * time.Hour
	csrfHeader    = "X-Csrf-Token"
	tokenPrint    = 16 // hex digits
)

func (s *server) mac(what, text string) []byte {
	m := hmac.New(sha256.New, []byte("fleetd session "+s.o.Token))
	_, _ = m.Write([]byte(what + "\n" + text))
	return m.Sum(nil)
}

func (s *server) seal(v session) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("make session: %w", err)
	}
	body := base64.RawURLEncoding.EncodeToString(data)
	return body + "." + base64.RawURLEncoding.EncodeToString(s.mac("cookie", body)), nil
}

func (s *server) csrf(cookie string) string {
	return base64.RawURLEncoding.EncodeToString(s.mac("csrf", cookie)[:18])
}

// bySession finds out whose session a cookie is; nobody's when it was not made here, is too old, or its token is gone.
func (s *server) bySession(ctx context.Context, cookie string) (who, error) {
	body, sum, ok := strings.Cut(cookie, ".")
	mac, err := base64.RawURLEncoding.DecodeString(sum)
	if !ok || err != nil || !hmac.Equal(mac, s.mac("cookie", body)) {
		return who{}, nil
	}
	var v session
	data, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || json.Unmarshal(data, &v) != nil || time.Now().Unix() > v.Expires || len(v.Token) != tokenPrint {
		return who{}, nil
	}
	if v.Token == hashToken(s.o.Token)[:tokenPrint] {
		return who{name: "admin", role: Admin}, nil
	}
	users, err := s.users(ctx)
	if err != nil {
		return who{}, err
	}
	for _, u := range users {
		if u.Name == v.Name && len(u.Hash) > tokenPrint && subtle.ConstantTimeCompare([]byte(u.Hash[:tokenPrint]), []byte(v.Token)) == 1 {
			return who{u.Name, roleNames[u.Role], u.Publisher}, nil
		}
	}
	return who{}, nil
}

// cookieUser is the user of a request with a session. A change must come from a page of ours.
func (s *server) cookieUser(r *http.Request, change bool) (who, error) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return who{}, nil
	}
	if change {
		site := r.Header.Get("Sec-Fetch-Site") // browsers send it to secure origins only
		if site != "" && site != "same-origin" {
			return who{}, nil
		}
		if subtle.ConstantTimeCompare([]byte(r.Header.Get(csrfHeader)), []byte(s.csrf(c.Value))) != 1 {
			return who{}, nil
		}
	}
	return s.bySession(r.Context(), c.Value)
}

func (s *server) signIn(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Token string `json:"token"`
	}
	if err := body(w, r, &in); err != nil {
		s.fault(w, r, err)
		return
	}
	u, err := s.byToken(r.Context(), in.Token)
	if err != nil {
		s.fault(w, r, err)
		return
	}
	if u.role == Nobody {
		fail(w, http.StatusUnauthorized, "unauthorised", "this token is not known")
		return
	}
	v, err := s.seal(session{u.name, hashToken(in.Token)[:tokenPrint], time.Now().Add(sessionLife).Unix()})
	if err != nil {
		s.fault(w, r, err)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: v, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
		MaxAge: int(sessionLife / time.Second),
	})
	writeJSON(w, http.StatusOK, s.describe(u, v))
}

// signOut forgets the cookie. Anybody may make a browser do that: it harms nothing.
func (s *server) signOut(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil, MaxAge: -1,
	})
	writeJSON(w, http.StatusOK, ok)
}

type described struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	Publisher string `json:"publisher,omitempty"`
	SignedIn  bool   `json:"signed_in"`
	CSRF      string `json:"csrf,omitempty"`
}

func (s *server) describe(u who, cookie string) described {
	d := described{Name: u.name, Publisher: u.publisher}
	for name, role := range roleNames {
		if role == u.role {
			d.Role = name
		}
	}
	if cookie != "" {
		d.SignedIn, d.CSRF = true, s.csrf(cookie)
	}
	return d
}

// me tells a page who it works for. Other sites cannot read the answer, so they cannot learn the second half.
func (s *server) me(_ http.ResponseWriter, r *http.Request, u who) (any, error) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return s.describe(u, ""), nil
	}
	if by, err := s.bySession(r.Context(), c.Value); err != nil || by.role == Nobody {
		return s.describe(u, ""), err
	}
	return s.describe(u, c.Value), nil
}
