//go:build linux

package lan

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/netlab"
)

// The namespace tests run each box as a process of its own, which is this test binary started again: mDNS sockets
// are opened on whatever thread, so a process has to live in its namespace whole.

const asBox = "BOXD_LAN_TEST_BOX"

func TestMain(m *testing.M) {
	if os.Getenv(asBox) != "" {
		if err := beBox(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// boxOrder is what a box process is told, on its standard input.
type boxOrder struct {
	Start *struct {
		ID            string
		CA, Cert, Key []byte
		Fleet         string
		Static        []string
		MDNS          bool
	}
	Self *Self
}

// boxView is what a box process tells, on its standard output.
type boxView struct {
	Neighbours []Neighbour
	Courier    map[string]string // asset → box
	Mine       []asset.ID
	Stats      Stats
	Goroutines int
	HeapBytes  uint64
}

func beBox() error {
	in := json.NewDecoder(os.Stdin)
	var o boxOrder
	if err := in.Decode(&o); err != nil {
		return err
	}
	ident, err := identityFrom(o)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", simPort))
	if err != nil {
		return err
	}
	l, err := New(Options{
		Identity: ident, PeerOf: testPeerOf, Listener: handshaken(ln, ident.config(ALPN)), Port: simPort,
		Static: o.Start.Static, MDNS: o.Start.MDNS, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var mu sync.Mutex
	var ids []asset.ID
	go func() {
		for {
			var o boxOrder
			if in.Decode(&o) != nil {
				return
			}
			if o.Self == nil {
				continue
			}
			mu.Lock()
			ids = nil
			for _, w := range o.Self.Wants {
				ids = append(ids, w.ID)
			}
			mu.Unlock()
			l.SetSelf(*o.Self)
		}
	}()
	go func() {
		out := json.NewEncoder(os.Stdout)
		for {
			changed := l.Changed()
			mu.Lock()
			view := look(l, ids)
			mu.Unlock()
			if out.Encode(view) != nil {
				return
			}
			select {
			case <-changed:
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
	return l.Run(ctx)
}

func look(l *LAN, ids []asset.ID) boxView {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	v := boxView{
		Neighbours: l.Neighbours(), Courier: map[string]string{}, Stats: l.Stats(),
		Goroutines: runtime.NumGoroutine(), HeapBytes: mem.HeapAlloc,
	}
	for _, id := range ids {
		box, self := l.Courier(id)
		v.Courier[id.String()] = box
		if self {
			v.Mine = append(v.Mine, id)
		}
	}
	return v
}

func identityFrom(o boxOrder) (*testIdentity, error) {
	ca, err := x509.ParseCertificate(o.Start.CA)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(o.Start.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &testIdentity{
		ca: &testCA{fleet: o.Start.Fleet, pool: pool}, id: o.Start.ID, changed: make(chan struct{}),
		cert: tls.Certificate{Certificate: [][]byte{o.Start.Cert}, PrivateKey: key},
	}, nil
}

// nsBox is a box process in a namespace, seen from the test.
type nsBox struct {
	t     *testing.T
	id    string
	ca    *testCA
	cmd   *netlab.Cmd
	stdin io.WriteCloser
	log   *os.File

	mu      sync.Mutex
	view    boxView
	changed chan struct{}
}

func startNSBox(t *testing.T, ns *netlab.NS, ident *testIdentity, static ...string) *nsBox {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &nsBox{t: t, id: ident.id, ca: ident.ca, cmd: ns.Command(context.Background(), exe), changed: make(chan struct{})}
	b.cmd.Env = append(os.Environ(), asBox+"=1")
	if b.log, err = os.Create(t.TempDir() + "/log"); err != nil {
		t.Fatal(err)
	}
	b.cmd.Stderr = b.log
	if b.stdin, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go b.follow(out)
	t.Cleanup(func() {
		_ = b.cmd.Process.Signal(syscall.SIGCONT)
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(b.log.Name())
			t.Logf("%s:\n%s", b.id, text[max(0, len(text)-3000):])
		}
		_ = b.log.Close()
	})
	key, err := x509.MarshalECPrivateKey(ecKey(ident))
	if err != nil {
		t.Fatal(err)
	}
	var o boxOrder
	o.Start = &struct {
		ID            string
		CA, Cert, Key []byte
		Fleet         string
		Static        []string
		MDNS          bool
	}{ident.id, ident.ca.cert.Raw, ident.cert.Certificate[0], key, ident.ca.fleet, static, len(static) == 0}
	b.send(o)
	return b
}

func (b *nsBox) send(o boxOrder) {
	b.t.Helper()
	if err := json.NewEncoder(b.stdin).Encode(o); err != nil {
		b.t.Fatal(err)
	}
}

func (b *nsBox) setSelf(s Self) { b.send(boxOrder{Self: &s}) }

func (b *nsBox) follow(r io.Reader) {
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var v boxView
		if json.Unmarshal(line, &v) != nil {
			continue
		}
		b.mu.Lock()
		b.view = v
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
	}
}

func (b *nsBox) look() (boxView, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view, b.changed
}

func (b *nsBox) sees(ids ...string) bool {
	v, _ := b.look()
	var got []string
	for _, n := range v.Neighbours {
		got = append(got, n.ID)
	}
	slices.Sort(ids)
	return slices.Equal(got, ids)
}

// carries reports whether the box believes that it is the asset's courier.
func (b *nsBox) carries(id asset.ID) bool {
	v, _ := b.look()
	return slices.Contains(v.Mine, id)
}

// patience is what a test waits at most. The machine may stand still for many seconds; what it took is logged, and the
// times that are promised are held by the simulated tests, where nothing else runs.
const patience = 2 * time.Minute

// until waits for a condition over what the boxes say and returns how long that took.
func until(t *testing.T, what string, cond func() bool, boxes ...*nsBox) time.Duration {
	t.Helper()
	start := time.Now()
	end := time.After(patience)
	for !cond() {
		select {
		case <-end:
			for _, b := range boxes {
				v, _ := b.look()
				t.Logf("%s: %+v", b.id, v)
			}
			t.Fatalf("not in %v: %s", patience, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return time.Since(start)
}
