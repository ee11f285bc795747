// Package mgmt is the box's MQTT session with the fleet manager: state, reports and proofs up, wishes and commands
// down. It speaks MQTT 3.1.1 as docs/mqtt.md has it, with any broker.
//
// Invariants: nothing that must arrive (proofs, command answers) lives only in memory: it is in the outbox in state.db
// before it is sent and until the fleet manager, not the broker, has acknowledged it. Nothing that changes the box is
// obeyed without a valid signature of an operations key, for this box or one of its groups, not expired. A command id
// is run at most once, also across restarts and power loss. Desired state only moves forward. The broker is trusted
// with nothing: what it sends is capped while it is read. All queues are bounded.
package mgmt

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"boxd/internal/asset"
	"boxd/internal/health"
	"boxd/internal/mqttwire"
)

// The health codes of this package.
const (
	CodeUnreachable = "fleet-unreachable" // no session with any broker for a while
	CodeRefused     = "fleet-refused"     // a broker refused this box, or one of its subscriptions
	CodeProtocol    = "fleet-protocol"    // the fleet speaks a version that this program does not know
	CodeVersion     = "fleet-version"     // a wish arrived with a version that no manager can have given
	CodeUnsigned    = "fleet-unsigned"    // a wish or command arrived that no operations key of the catalog signed
)

// Box is the box as this package needs it. Its methods may be called from any goroutine.
type Box interface {
	// Report is what the box is now. Assets come most important first.
	Report() Report
	// Tele is a sample of the box's telemetry; the envelope is filled in here.
	Tele() mqttwire.Tele
	// Do runs a command and returns its final answer; an error is an answer too.
	Do(ctx context.Context, c Command) Result
	// Configure applies remote config, narrowing only, and returns the keys it refused because they would widen.
	Configure(ctx context.Context, c mqttwire.Config) (refused []string, err error)
	// Bell says that the catalog has at least this version. It must not block.
	Bell(catalogVersion int64)
	// Changed returns a channel that is closed when Report would differ.
	Changed() <-chan struct{}
}

// Report is the box's state. Slices must not be changed after it was returned.
type Report struct {
	Software       string
	ClockTrusted   bool
	CatalogVersion int64
	CatalogExpires time.Time
	Paused         bool
	Assets         []mqttwire.AssetProgress // those that are not ready
	Holdings       []Holding                // those that are held whole
	HoldingsKnown  bool                     // false while the cache is not known: nothing is concluded from Holdings
	Gone           map[asset.ID]string      // why an asset is no longer held, where known: "withdrawn", "evicted", …
	Traffic        mqttwire.Traffic
	Disk           mqttwire.Disk
	Health         []health.Warning
	Household      int
	Home           []mqttwire.Shared // with each box of the home
	CertExpires    time.Time
}

// Holding is an asset that the box holds whole, verified and durable.
type Holding struct {
	ID                        asset.ID
	Name, Publisher, Campaign string
	Size                      int64
	From                      mqttwire.Traffic // where its bytes came from; runs on when it is erased and fetched again
	Counting                  time.Time        // when From began to count
	At                        time.Time        // when it became ready; zero if not known
	Trusted                   bool             // whether the clock was trusted at At
}

// Command is an order, verified.
type Command struct {
	ID, Name string
	Args     json.RawMessage
}

// Result answers a command. Code is empty when it is done.
type Result struct {
	Code, Text string
	Data       json.RawMessage
}

// Message is what an operations key signed.
type Message struct {
	Kind    string // "desired" or "command"
	ID      string // the command's id
	To      string // "box:…" or "group:…"; only told on, Verify has judged it
	Expires time.Time
	Payload json.RawMessage
}

// DB is state.db: what survives a restart and cannot be rebuilt.
type DB interface {
	Update(fn func(*bbolt.Tx) error) error
	View(fn func(*bbolt.Tx) error) error
}

// Options configures a Manager. Box, DB, Verify and the identity functions are required.
type Options struct {
	Box     Box
	DB      DB
	Brokers []string                      // tls://host:port (or tcp:// with AllowPlain)
	Verify  func([]byte) (Message, error) // checks signature, addressee and expiry of a wish or command
	BoxID   func() string                 // empty until enrolled
	Fleet   func() string
	Groups  func() []string
	TLS     func() *tls.Config // of a client of the fleet
	Now     func() (time.Time, bool)
	// IdentityChanged tells of an enrolment or a new certificate: the session is made anew with it.
	IdentityChanged func() <-chan struct{}
	// Upload sends a document by HTTPS, such as the full list of holdings; nil leaves it out.
	Upload func(ctx context.Context, name string, body []byte) error

	AllowPlain   bool          // permit tcp:// brokers: tests on loopback only
	BootSpread   time.Duration // the first connect waits a random part of this; 0 means 2 s, negative none
	BackoffMin   time.Duration // 0 means 1 s
	BackoffMax   time.Duration // 0 means 2 min
	KeepAlive    time.Duration // 0 means 60 s
	ReportSoon   time.Duration // least time between reports when a state changed; 0 means 1 s
	ReportMoving time.Duration // least time between reports when only progress changed; 0 means 15 s
	ReportIdle   time.Duration // most time between reports; 0 means 5 min; remote config may change it
	TelePeriod   time.Duration // 0 means 60 s
	Resend       time.Duration // an event without acknowledgement is sent again after this; 0 means 20 s
	OutboxMax    int           // events kept; 0 means 4096

	Health *health.Set
	Log    *slog.Logger
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.BootSpread, 2*time.Second)
	def(&o.BackoffMin, time.Second)
	def(&o.BackoffMax, 2*time.Minute)
	def(&o.KeepAlive, time.Minute)
	def(&o.ReportSoon, time.Second)
	def(&o.ReportMoving, 15*time.Second)
	def(&o.ReportIdle, 5*time.Minute)
	def(&o.TelePeriod, time.Minute)
	def(&o.Resend, 20*time.Second)
	if o.OutboxMax == 0 {
		o.OutboxMax = 4096
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = func() (time.Time, bool) { return time.Now(), true }
	}
	if o.IdentityChanged == nil {
		o.IdentityChanged = func() <-chan struct{} { return nil }
	}
}

// Validate joins everything that is wrong with o.
func (o *Options) Validate() error {
	var errs []error
	if o.Box == nil || o.DB == nil || o.Verify == nil || o.BoxID == nil || o.Fleet == nil || o.Groups == nil {
		errs = append(errs, errors.New("mgmt: Box, DB, Verify, BoxID, Fleet and Groups are required"))
	}
	if len(o.Brokers) == 0 {
		errs = append(errs, errors.New("mgmt: no broker"))
	}
	for _, b := range o.Brokers {
		u, err := url.Parse(b)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("mgmt: broker %q: %w", b, err))
		case u.Port() == "" || u.Hostname() == "":
			errs = append(errs, fmt.Errorf("mgmt: broker %q: want tls://host:port", b))
		case u.Scheme == "tls" && o.TLS == nil:
			errs = append(errs, fmt.Errorf("mgmt: broker %q needs TLS", b))
		case u.Scheme != "tls" && (u.Scheme != "tcp" || !o.AllowPlain):
			errs = append(errs, fmt.Errorf("mgmt: broker %q: want tls://host:port", b))
		}
	}
	return errors.Join(errs...)
}

// Manager is the session; see the package comment.
type Manager struct {
	o       Options
	start   time.Time
	epoch   string
	outbox  *outbox
	cmds    *commands
	desired *desired
	tele    *teleRing
	status  status

	unproven map[asset.ID]bool // arrivals that found no room in the outbox; owned by collect
	lost     atomic.Uint64     // of those, how many were erased before they could be proven
}

// New loads what state.db holds; it starts nothing.
func New(o Options) (*Manager, error) {
	o.setDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	m := &Manager{o: o, start: time.Now(), tele: &teleRing{}, unproven: map[asset.ID]bool{}}
	var err error
	if m.epoch, err = loadEpoch(o.DB); err != nil {
		return nil, err
	}
	if m.outbox, err = openOutbox(o.DB, o.OutboxMax); err != nil {
		return nil, err
	}
	if m.desired, err = openDesired(m); err != nil {
		return nil, err
	}
	m.cmds = newCommands(m)
	return m, nil
}

// Run keeps a session with one of the brokers until ctx ends. While state.db cannot be written it goes on trying: what it
// promises waits, and the films play.
func (m *Manager) Run(ctx context.Context) error {
	m.desired.restore(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.steady(ctx, "proofs", m.collect) })
	g.Go(func() error {
		return m.steady(ctx, "commands", func(ctx context.Context) error {
			if err := m.cmds.answerInterrupted(); err != nil {
				return err
			}
			return m.cmds.run(ctx)
		})
	})
	g.Go(func() error { return m.sample(ctx) })
	g.Go(func() error { return m.steady(ctx, "session", m.connectLoop) })
	if m.o.Upload != nil {
		g.Go(func() error { return m.steady(ctx, "upload", m.uploadLoop) })
	}
	return g.Wait()
}

// steady runs a loop again, after a while, when state.db did not take a write: a full or read-only disk is a state of the
// box (state.DB says so in its health) and must not end the daemon, which plays from another disk.
func (m *Manager) steady(ctx context.Context, what string, loop func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := loop(ctx)
		var broken *dbError
		if ctx.Err() != nil || !errors.As(err, &broken) {
			return err
		}
		if time.Since(began) > m.o.BackoffMax {
			attempt = 0
		}
		m.status.set(func(s *Status) { s.LastError = err.Error() })
		m.o.Log.Error("state not kept", "what", what, "err", err)
		sleep(ctx, backoff(m.o.BackoffMin, m.o.BackoffMax, attempt))
	}
}

// connectLoop makes sessions one after another. paho's own reconnect has no jitter and always begins with the first
// broker, so each session is a new client, the brokers are shuffled and the wait is full jitter.
func (m *Manager) connectLoop(ctx context.Context) error {
	if m.o.BootSpread > 0 {
		sleep(ctx, rand.N(m.o.BootSpread))
	}
	var brokers []string
	var downSince time.Time
	for attempt := 0; ctx.Err() == nil; {
		if !m.waitEnrolled(ctx) {
			return nil
		}
		if len(brokers) == 0 {
			brokers = append(brokers, m.o.Brokers...)
			rand.Shuffle(len(brokers), func(i, j int) { brokers[i], brokers[j] = brokers[j], brokers[i] })
		}
		broker := brokers[0]
		brokers = brokers[1:]
		lasted, err := m.session(ctx, broker)
		if ctx.Err() != nil {
			return nil
		}
		m.status.set(func(s *Status) { s.Connected, s.LastError = false, errText(err) })
		var broken *dbError
		if errors.As(err, &broken) {
			return err
		}
		if lasted > 0 {
			attempt, downSince = 0, time.Time{}
		}
		if downSince.IsZero() {
			downSince = time.Now()
		}
		if time.Since(downSince) > 2*time.Minute {
			m.o.Health.Raise(health.Warning{
				Code: CodeUnreachable, Severity: health.Warn,
				Text: "no session with the fleet manager: " + errText(err), Action: "check the network and the brokers",
			})
		}
		m.o.Log.Info("mqtt session ended", "broker", broker, "lasted_ms", lasted.Milliseconds(), "err", err)
		sleep(ctx, backoff(m.o.BackoffMin, m.o.BackoffMax, attempt))
		attempt++
	}
	return nil
}

// backoff is full jitter: a random part of an exponentially growing, capped wait.
func backoff(base, limit time.Duration, attempt int) time.Duration {
	d := base << min(attempt, 20)
	if d <= 0 || d > limit {
		d = limit
	}
	return rand.N(d)
}

func (m *Manager) waitEnrolled(ctx context.Context) bool {
	for {
		changed := m.o.IdentityChanged()
		if m.o.BoxID() != "" {
			return ctx.Err() == nil
		}
		var poll <-chan time.Time
		if changed == nil {
			poll = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		case <-poll:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
