package broker_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"boxd/internal/asset"
	"boxd/internal/fleet/broker"
	"boxd/internal/fleet/fleettest"
	"boxd/internal/mgmt"
	"boxd/internal/mqttwire"
)

// rig is an embedded broker with its auth callout and a bus whose handler keeps and acknowledges what boxes say.
type rig struct {
	ca   *testCA
	bus  *broker.Bus
	srv  *broker.Server
	addr string

	mu      sync.Mutex // guards the fields below
	got     []broker.Msg
	fail    error
	changed chan struct{}

	abused chan string
	creds  broker.Creds
	free   atomic.Int64 // bytes on the disk
}

func logTo(tb testing.TB) *slog.Logger {
	if os.Getenv("BOXD_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newRig has the auth callout of a cluster's nodes when callout is true, and else the embedded server's way.
func newRig(tb testing.TB, callout ...bool) *rig {
	tb.Helper()
	dir := tb.TempDir()
	creds, err := broker.LoadCreds(filepath.Join(dir, "creds.json"))
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{ca: newCA(tb), addr: fleettest.FreeAddr(tb), changed: make(chan struct{}), abused: make(chan string, 1000), creds: creds}
	r.free.Store(1 << 40)
	log := logTo(tb)
	o := broker.ServerOptions{
		Dir: filepath.Join(dir, "js"), Name: "t1", MQTT: r.addr, TLS: r.ca.server(tb), Creds: creds, Log: log,
		Fleet: "f1", Authorize: func(_ context.Context, chain []*x509.Certificate) (broker.Client, error) {
			leaf := chain[0]
			if strings.HasPrefix(leaf.Subject.CommonName, "revoked") {
				return broker.Client{}, errors.New("revoked")
			}
			until := leaf.NotAfter
			if leaf.Subject.CommonName == "ends-soon" {
				until = time.Now().Add(time.Second)
			}
			return broker.Client{Box: leaf.Subject.CommonName, Groups: leaf.Subject.OrganizationalUnit, Until: until}, nil
		},
	}
	auth := &broker.Auth{Fleet: "f1", Creds: creds, Log: log, Authorize: o.Authorize}
	called := slices.Contains(callout, true)
	if called {
		o.Authorize = nil
	}
	if r.srv, err = broker.NewServer(o); err != nil {
		tb.Fatal(err)
	}
	r.bus = r.newBus(log)
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	up, listens, flows := make(chan struct{}), make(chan struct{}), make(chan struct{})
	g.Go(func() error { return r.srv.Run(ctx, func() { close(up) }) })
	g.Go(func() error {
		<-up
		if !called {
			close(listens)
			return nil
		}
		return auth.Run(ctx, r.srv.Connect(), func() { close(listens) })
	})
	g.Go(func() error {
		<-listens
		return r.bus.Run(ctx, func() { close(flows) })
	})
	tb.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			tb.Error(err)
		}
	})
	select {
	case <-flows:
	case <-time.After(time.Minute):
		tb.Fatal("the broker did not come up")
	}
	return r
}

func (r *rig) newBus(log *slog.Logger) *broker.Bus {
	return broker.NewBus(broker.BusOptions{
		Fleet: "f1", At: r.srv.Connect(), Creds: r.creds, MQTT: []string{r.addr}, Log: log, Handle: r.handle, Tele: r.tele,
		Abuse: func(box string) { r.abused <- box }, Alone: true, Free: r.free.Load,
		MQTTTLS: func() *tls.Config {
			return &tls.Config{RootCAs: r.ca.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}
		},
	})
}

func (r *rig) tele(m broker.Msg) { r.keep([]broker.Msg{m}) }

func (r *rig) keep(batch []broker.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, batch...)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *rig) handle(_ context.Context, batch []broker.Msg) error {
	r.mu.Lock()
	err := r.fail
	r.mu.Unlock()
	if err != nil {
		return err
	}
	r.keep(batch)
	for _, m := range batch {
		var evt struct {
			Epoch string
			Evt   uint64
		}
		if json.Unmarshal(m.Payload, &evt) == nil && evt.Evt > 0 {
			ack, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.EventAck{V: 1, Epoch: evt.Epoch, Evt: evt.Evt})
			if err != nil {
				return err
			}
			if err := r.bus.Send(mqttwire.BoxTopic("f1", m.Topic.Box, mqttwire.EventAckTail(evt.Evt)), ack); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait returns the first message, now or later, that want accepts.
func (r *rig) wait(tb testing.TB, what string, want func(broker.Msg) bool) broker.Msg {
	tb.Helper()
	deadline := time.After(time.Minute)
	for seen := 0; ; {
		r.mu.Lock()
		list, changed := r.got[seen:], r.changed
		seen = len(r.got)
		r.mu.Unlock()
		for _, m := range list {
			if want(m) {
				return m
			}
		}
		select {
		case <-changed:
		case <-deadline:
			tb.Fatalf("never came: %s", what)
		}
	}
}

// fakeBox is a box whose report the test sets.
type fakeBox struct {
	mu      sync.Mutex // guards the fields below
	rep     mgmt.Report
	changed chan struct{}
	done    []mgmt.Command
	conf    []mqttwire.Config
	bells   []int64
}

func newBox() *fakeBox {
	return &fakeBox{changed: make(chan struct{}), rep: mgmt.Report{Software: "test", HoldingsKnown: true, ClockTrusted: true}}
}

func (b *fakeBox) set(f func(*mgmt.Report)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.rep)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBox) Report() mgmt.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rep
}

func (b *fakeBox) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
func (b *fakeBox) Tele() mqttwire.Tele { return mqttwire.Tele{RSS: 1} }
func (b *fakeBox) Do(_ context.Context, c mgmt.Command) mgmt.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = append(b.done, c)
	return mgmt.Result{Text: "did " + c.Name}
}

func (b *fakeBox) Configure(_ context.Context, c mqttwire.Config) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conf = append(b.conf, c)
	return nil, nil
}

func (b *fakeBox) Bell(v int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bells = append(b.bells, v)
}

// verify stands in for the operations signatures, which their own package tests.
func verify(raw []byte) (mgmt.Message, error) {
	var m mgmt.Message
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("unsigned: %w", err)
	}
	return m, nil
}

func startBox(tb testing.TB, r *rig, id, group string, box *fakeBox) *mgmt.Manager {
	tb.Helper()
	return startBoxAs(tb, r, id, group, box, r.ca.box(tb, id, group))
}

func startBoxAs(tb testing.TB, r *rig, id, group string, box *fakeBox, cfg *tls.Config) *mgmt.Manager {
	tb.Helper()
	db, err := bbolt.Open(filepath.Join(tb.TempDir(), "state.db"), 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	m, err := mgmt.New(mgmt.Options{
		Box: box, DB: db, Brokers: []string{"tls://" + r.addr}, Verify: verify, BoxID: func() string { return id },
		Fleet: func() string { return "f1" }, Groups: func() []string { return []string{group} },
		TLS: func() *tls.Config { return cfg }, BootSpread: -1, BackoffMin: 50 * time.Millisecond, BackoffMax: 500 * time.Millisecond,
		ReportSoon: 20 * time.Millisecond, TelePeriod: 100 * time.Millisecond, Resend: time.Second, Log: logTo(tb),
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

func TestABoxReportsProvesAndObeys(t *testing.T) {
	r := newRig(t)
	box := newBox()
	m := startBox(t, r, "box-a", "living", box)
	r.wait(t, "state online", func(m broker.Msg) bool {
		var s mqttwire.State
		return m.Topic.Kind == mqttwire.KindState && mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &s) == nil && s.Online
	})
	r.wait(t, "telemetry", func(m broker.Msg) bool { return m.Topic.Kind == mqttwire.KindTele })

	id := asset.ID{1, 2, 3}
	box.set(func(rep *mgmt.Report) {
		rep.Holdings = []mgmt.Holding{
			{ID: id, Name: "film", Size: 99, From: mqttwire.Traffic{LAN: 90, Origin: 9}, At: time.Now(), Trusted: true},
		}
	})
	r.wait(t, "proof of arrival", func(m broker.Msg) bool {
		var e mqttwire.Event
		return m.Topic.Kind == mqttwire.KindEvent && mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &e) == nil &&
			e.Kind == mqttwire.EventArrived && e.Asset == id && e.From.LAN == 90
	})
	waitFor(t, "outbox empty after the acknowledgement", func() bool { return m.Status().Outbox == 0 })

	cmd, err := json.Marshal(
		mgmt.Message{
			Kind:    "command",
			ID:      "c1",
			To:      "box-a",
			Expires: time.Now().Add(time.Minute),
			Payload: []byte(`{"v":1,"name":"refresh"}`),
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the same command again and again is run once and answered
		if err := r.bus.Send(mqttwire.BoxTopic("f1", "box-a", "cmd/c1"), cmd); err != nil {
			t.Fatal(err)
		}
	}
	r.wait(t, "answer", func(m broker.Msg) bool {
		var a mqttwire.CommandAck
		return m.Topic.Kind == mqttwire.KindCmdAck && mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &a) == nil &&
			a.Status == mqttwire.StatusDone && a.Text == "did refresh"
	})
	if box.mu.Lock(); len(box.done) != 1 {
		t.Errorf("the command ran %d times", len(box.done))
	}
	box.mu.Unlock()

	wish, err := json.Marshal(
		mgmt.Message{
			Kind:    "desired",
			To:      "group:living",
			Payload: []byte(`{"v":1,"version":4,"catalog_version":7,"config":{"wan_down":1000}}`),
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.bus.Retain(mqttwire.GroupDesired("f1", "living"), wish); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "reported group version 4", func(m broker.Msg) bool {
		var rep mqttwire.Reported
		return m.Topic.Kind == mqttwire.KindReported && mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &rep) == nil &&
			rep.GroupVersions["living"] == 4
	})
	late := newBox() // a box that comes later finds the retained wish
	startBox(t, r, "box-b", "living", late)
	waitFor(t, "bell at the late box", func() bool {
		late.mu.Lock()
		defer late.mu.Unlock()
		return len(late.bells) > 0 && late.bells[len(late.bells)-1] == 7
	})
}

func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}
