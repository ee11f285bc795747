package httpapi

import (
	"context"
	"crypto/subtle"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

type peerKey struct{}

// peer is who is at the other end of a unix socket.
type peer struct {
	uid    uint32
	groups []uint32
}

// withPeer notes SO_PEERCRED and SO_PEERGROUPS (socket(7), unix(7)) of a connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if b, ok := c.(boundedConn); ok {
		c = b.Conn
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var p *peer
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			p = &peer{uid: cred.Uid, groups: append(peerGroups(int(fd)), cred.Gid)}
		}
	})
	if err != nil || p == nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// adminCheck decides who on the socket may change the box.
type adminCheck struct {
	own   uint32
	group string
}

func newAdminCheck(group string) *adminCheck {
	return &adminCheck{own: uint32(os.Geteuid()), group: group} //nolint:gosec // a uid is never negative on Linux
}

func (a *adminCheck) allows(p *peer) bool {
	if p == nil {
		return false
	}
	if p.uid == 0 || p.uid == a.own {
		return true
	}
	g, err := user.LookupGroup(a.group) // read each time: the group may be made after the start
	if err != nil {
		return false
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	return err == nil && slices.Contains(p.groups, uint32(gid))
}

func isRead(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}

func (s *Server) guardUnix(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isRead(r) || needsAdmin(r) {
			p, _ := r.Context().Value(peerKey{}).(*peer)
			if !s.admins.allows(p) {
				fail(w, http.StatusForbidden, "forbidden",
					"only root, the daemon's own user and members of "+s.o.AdminGroup+" may do this")
				return
			}
		}
		if !isRead(r) && !isJSON(r) {
			fail(w, http.StatusUnsupportedMediaType, "json-only", "send Content-Type: application/json")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// needsAdmin marks the reads that show more than a player on the box needs to know.
func needsAdmin(r *http.Request) bool { return r.URL.Path == "/api/v1/bugreport" }

func (s *Server) guardTCP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w)
		if !loopbackHost(r.Host) {
			fail(w, http.StatusForbidden, "bad-host", "this server answers only to a loopback name")
			return
		}
		if !s.cors(w, r) {
			return
		}
		if !isRead(r) && !isJSON(r) {
			fail(w, http.StatusUnsupportedMediaType, "json-only", "send Content-Type: application/json")
			return
		}
		if (!isRead(r) || needsAdmin(r)) && !s.hasToken(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "token", "send the token of this box as Authorization: Bearer …")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// cors lets the box's own pages and the configured origins read, and nobody else; it reports whether to go on.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case origin == "" && (site == "" || site == "same-origin" || site == "none"):
		return true
	case origin == "" && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.URL.Path == "/":
		return true // a link to the status page
	case origin == "http://"+r.Host:
		return true
	case origin != "" && s.allowed(origin):
	default:
		fail(w, http.StatusForbidden, "origin", "this web origin is not in [http] origins")
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Content-Length, Content-Range, Accept-Ranges, ETag")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE")
		h.Set("Access-Control-Allow-Headers", "Range, If-Range, If-None-Match, Content-Type, Authorization")
		h.Set("Access-Control-Max-Age", "600")
		if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
			h.Set("Access-Control-Allow-Private-Network", "true")
		}
		w.WriteHeader(http.StatusNoContent)
		return false
	}
	return true
}

func secure(w http.ResponseWriter) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Security-Policy", pagePolicy)
}

// pagePolicy is the content security policy of the status page: nothing from anywhere but this server, no inline code.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

func (s *Server) hasToken(r *http.Request) bool {
	have, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(have), []byte(s.o.Token)) == 1
}

func isJSON(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == "application/json"
}

func loopbackHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func trimSlash(s string) string { return strings.TrimRight(s, "/") }
