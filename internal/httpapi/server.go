// Package httpapi is the box's HTTP face: verified media to the player on the box, the status page, the JSON interface,
// metrics, and the same over a unix socket for the command line.
//
// Invariants: the TCP server answers only to a loopback Host, so that no web page on the internet can reach it by DNS
// rebinding; other web origins read nothing unless the configuration names them; what changes the box needs a JSON
// body and the token, or on the socket root, the daemon's own user or the group boxd-admin. The page for the home's
// other devices is a listener of its own, off by default, read-only and only for paired browsers. Connections, bodies
// and answers are bounded, and a player that stops reading is let go.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"boxd/internal/asset"
	"boxd/internal/control"
)

// Box is the box as its HTTP face needs it.
type Box interface {
	Snapshot() *control.Snapshot
	AssetFiles(id asset.ID) (control.Asset, bool) // with all its files
	Changed() <-chan struct{}
	History() control.History
	Day(length time.Duration) control.Day
	Do(ctx context.Context, cmd control.Command) control.Result
	OpenFile(ctx context.Context, id asset.ID, path string) (*control.Content, error)
	Playback() *control.Playback
	Probe(ctx context.Context) error // fails when a service does not answer
	Ready() (bool, string)
	BugReport(ctx context.Context, w io.Writer, more ...control.ReportPart) error
}

// Options configures a Server. Box and Token are required; listeners that are nil are not served.
type Options struct {
	Box        Box
	TCP        net.Listener // loopback
	Unix       net.Listener // the command line's socket
	LAN        net.Listener // the read-only page; nil keeps it off
	Token      string       // writes over TCP show it as a bearer token
	Origins    []string     // web origins that may read
	AdminGroup string       // group that may change the box over the socket; "" means boxd-admin
	MaxPlayers int          // open media responses; 0 means 64
	Pairings   Pairings     // remembers paired browsers; nil forgets them at the end
	Log        *slog.Logger
}

// Bounds of the servers.
const (
	maxConns      = 512 // per listener; more wait in the kernel's backlog
	maxBody       = 64 << 10
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	bodyTimeout   = 10 * time.Second    // for the body of a request to come
	answerTimeout = 30 * time.Second    // for everything but media and events
	stallTimeout  = control.PlayerStall // a player that takes no byte for so long is let go; it comes back with a Range
	shutdownGrace = 2 * time.Second
)

// Server is the HTTP face.
type Server struct {
	o        Options
	log      *slog.Logger
	mu       sync.Mutex // guards origins
	origins  map[string]bool
	admins   *adminCheck
	players  chan struct{} // a token for each open media response
	watchers chan struct{} // a token for each event stream
	pair     *pairing
	body     time.Duration // bodyTimeout, but in tests
}

// New returns a Server; it serves nothing before Run.
func New(o Options) (*Server, error) {
	if o.Box == nil || o.Token == "" {
		return nil, errors.New("httpapi: Box and Token are required")
	}
	if o.MaxPlayers == 0 {
		o.MaxPlayers = 64
	}
	if o.AdminGroup == "" {
		o.AdminGroup = "boxd-admin"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		o: o, log: o.Log, admins: newAdminCheck(o.AdminGroup), players: make(chan struct{}, o.MaxPlayers),
		watchers: make(chan struct{}, 16), pair: newPairing(o.Pairings, time.Now), body: bodyTimeout,
	}
	s.SetOrigins(o.Origins)
	return s, nil
}

// SetOrigins replaces the web origins that may read.
func (s *Server) SetOrigins(list []string) {
	m := make(map[string]bool, len(list))
	for _, o := range list {
		m[trimSlash(o)] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.origins = m
}

func (s *Server) allowed(origin string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.origins[origin]
}

// Run serves until ctx ends, then gives open requests a moment.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.serve(ctx, g, "loopback", s.o.TCP, s.guardTCP(s.routes()))
	s.serve(ctx, g, "socket", s.o.Unix, s.guardUnix(s.routes()))
	s.serve(ctx, g, "lan", s.o.LAN, s.guardLAN(s.lanRoutes()))
	return g.Wait()
}

func (s *Server) serve(ctx context.Context, g *errgroup.Group, name string, l net.Listener, h http.Handler) {
	if l == nil {
		return
	}
	srv := &http.Server{
		Handler:           s.hurry(h),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withPeer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		err := srv.Serve(&boundedListener{Listener: l, slots: make(chan struct{}, maxConns), done: ctx.Done()})
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("serve http on %s (%s): %w", l.Addr(), name, err)
	})
	g.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// hurry bounds how long the body of a request may take, also of one that is refused: the server reads it to its end.
func (s *Server) hurry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.body)) // best effort
		}
		next.ServeHTTP(w, r)
	})
}

// boundedListener accepts no more connections than it has slots.
type boundedListener struct {
	net.Listener
	slots chan struct{}
	done  <-chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return boundedConn{c, sync.OnceFunc(func() { <-l.slots })}, nil
}

// boundedConn gives its slot back when it is closed. It hands ReadFrom on, so that sendfile keeps working.
type boundedConn struct {
	net.Conn
	release func()
}

func (c boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

func (c boundedConn) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}
