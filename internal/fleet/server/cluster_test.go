package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/fleettest"
	"boxd/internal/fleet/registry"
	"boxd/internal/mgmt"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
	"boxd/internal/state"
)

// cluster is three broker nodes, two fleetd and a PostgreSQL, each a process of its own that can be killed.
type cluster struct {
	t       *testing.T
	bin     string
	dir     string
	procs   map[string]*exec.Cmd
	args    map[string][]string
	apis    []string
	brokers []string
	root    *x509.CertPool
	inter   *x509.Certificate
	chain   []byte
	signer  *ecdsa.PrivateKey
	opsKeys []byte
}

func (c *cluster) start(name string) {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(c.bin, c.args[name]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.procs[name] = cmd
}

func (c *cluster) kill(name string) {
	if cmd := c.procs[name]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		delete(c.procs, name)
	}
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	pg := fleettest.StartPostgres(t)
	c := &cluster{t: t, dir: t.TempDir(), procs: map[string]*exec.Cmd{}, args: map[string][]string{}}
	c.bin = filepath.Join(c.dir, "fleetd")
	if out, err := exec.Command("go", "build", "-o", c.bin, "boxd/cmd/fleetd").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	fleet := filepath.Join(c.dir, "fleet")
	c.run("init", "--dir", fleet, "--fleet", "home", "--host", "127.0.0.1")
	ports := map[string]int{}
	port := func(name string) string {
		if ports[name] == 0 {
			ports[name] = fleettest.FreePort(t)
		}
		return fmt.Sprintf("127.0.0.1:%d", ports[name])
	}
	nodes := []string{"n1", "n2", "n3"}
	var nats, mqtt []string
	for _, n := range nodes {
		args := []string{
			"broker-config", "--dir", fleet, "--name", n, "--store", filepath.Join(c.dir, n), "--mqtt", port(n + "mqtt"),
			"--client", port(n + "client"), "--cluster", port(n + "cluster"), "--tls-dir", c.dir,
		}
		for _, other := range nodes {
			if other != n {
				args = append(args, "--route", "nats://"+port(other+"cluster"))
			}
		}
		conf := filepath.Join(c.dir, n+".conf")
		if err := os.WriteFile(conf, c.run(args...), 0o600); err != nil {
			t.Fatal(err)
		}
		nats, mqtt = append(nats, "nats://"+port(n+"client")), append(mqtt, port(n+"mqtt"))
		c.brokers = append(c.brokers, "tls://"+port(n+"mqtt"))
		c.args[n] = []string{"broker", conf}
		c.start(n)
	}
	for _, f := range []string{"f1", "f2"} {
		c.args[f] = []string{
			"serve", "--dir", fleet, "--listen", port(f + "listen"), "--api", port(f + "api"), "--host", "127.0.0.1", "--db", pg.URL,
			"--nats", strings.Join(nats, ","), "--mqtt-cluster", strings.Join(mqtt, ","), "--log-level", "debug",
		}
		c.apis = append(c.apis, "http://"+port(f+"api"))
		c.start(f)
	}
	t.Cleanup(func() {
		for name := range c.procs {
			c.kill(name)
		}
		if t.Failed() {
			for _, name := range []string{"n1", "f1", "f2"} {
				data, _ := os.ReadFile(filepath.Join(c.dir, name+".log"))
				t.Logf("%s:\n%s", name, data[max(0, len(data)-3000):])
			}
		}
	})
	for _, api := range c.apis {
		fleettest.Until(t, 90*time.Second, api+" is ready", func() bool { return ready(api) })
	}
	c.loadCA(fleet)
	return c
}

func ready(api string) bool {
	resp, err := http.Get(api + "/readyz")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (c *cluster) run(args ...string) []byte {
	c.t.Helper()
	cmd := exec.Command(c.bin, args...)
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("fleetd %v: %v", args, err)
	}
	return out
}

// loadCA takes the boxes' intermediate, so that the boxes need not enrol one by one.
func (c *cluster) loadCA(fleet string) {
	data, err := os.ReadFile(filepath.Join(fleet, "ca", "boxes.pem"))
	if err != nil {
		c.t.Fatal(err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			c.chain = block.Bytes
			if c.inter, err = x509.ParseCertificate(block.Bytes); err != nil {
				c.t.Fatal(err)
			}
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			c.t.Fatal(err)
		}
		c.signer = key.(*ecdsa.PrivateKey)
	}
	root, err := os.ReadFile(filepath.Join(fleet, "ca", "root.pem"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.root = x509.NewCertPool()
	c.root.AppendCertsFromPEM(root)
	if c.opsKeys, err = os.ReadFile(filepath.Join(fleet, "keys", "operations.pem")); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) boxTLS(id string, serial int64) *tls.Config {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1<<40 + serial),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		Subject:               pkix.Name{CommonName: id, Organization: []string{"home"}, OrganizationalUnit: []string{"default"}},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, c.inter, &key.PublicKey, c.signer)
	if err != nil {
		c.t.Fatal(err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      c.root,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, c.chain}, PrivateKey: key}},
	}
}

// clusterBox is a real session around a scripted cache that gets new assets as fast as it is told to.
type clusterBox struct {
	id string
	mg *mgmt.Manager

	mu      sync.Mutex // guards the fields below
	held    []mgmt.Holding
	changed chan struct{}
	ran     map[string]int
	config  mqttwire.Config
}

func (b *clusterBox) Report() mgmt.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return mgmt.Report{Software: "1", HoldingsKnown: true, ClockTrusted: true, Holdings: slices.Clone(b.held)}
}

func (b *clusterBox) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
func (b *clusterBox) Tele() mqttwire.Tele { return mqttwire.Tele{} }
func (b *clusterBox) Bell(int64)          {}
func (b *clusterBox) Do(_ context.Context, cmd mgmt.Command) mgmt.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ran[cmd.ID]++
	return mgmt.Result{}
}

func (b *clusterBox) Configure(_ context.Context, c mqttwire.Config) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.config = c
	return nil, nil
}

func (b *clusterBox) arrive(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := len(b.held) + 1
	b.held = append(
		b.held,
		mgmt.Holding{
			ID:        asset.ID{byte(n), byte(n >> 8), byte(k), byte(k >> 8), 1},
			Publisher: "operator",
			Size:      1,
			At:        time.Now(),
			Trusted:   true,
		},
	)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (c *cluster) startBox(n int) *clusterBox {
	t := c.t
	b := &clusterBox{id: fmt.Sprintf("box-%03d", n), changed: make(chan struct{}), ran: map[string]int{}}
	db, err := state.Open(filepath.Join(t.TempDir(), "state.db"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys := opsPublic(t, c.opsKeys)
	cfg := c.boxTLS(b.id, int64(n))
	groups := func() []string { return []string{"default"} }
	b.mg, err = mgmt.New(mgmt.Options{
		Box:        b,
		DB:         db,
		Brokers:    c.brokers,
		BoxID:      func() string { return b.id },
		Fleet:      func() string { return "home" },
		Groups:     groups,
		TLS:        func() *tls.Config { return cfg },
		BackoffMin: 200 * time.Millisecond,
		BackoffMax: 5 * time.Second,
		Resend:     5 * time.Second,
		KeepAlive:  10 * time.Second,
		TelePeriod: 10 * time.Second,
		Verify: func(raw []byte) (mgmt.Message, error) {
			m, err := ops.Verify(keys, raw, ops.Box{Fleet: "home", ID: b.id, Groups: groups()}, time.Now())
			return mgmt.Message{Kind: m.Kind, ID: m.ID, To: m.To, Expires: m.Expires, Payload: m.Payload}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.mg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (c *cluster) manager(i int) *manager {
	data, err := os.ReadFile(filepath.Join(c.dir, "fleet", "api-token"))
	if err != nil {
		c.t.Fatal(err)
	}
	return &manager{dir: c.dir, api: c.apis[i], token: strings.TrimSpace(string(data))}
}

// TestAnyNodeMayDie kills a broker node, a fleetd and another node under load. No proof is lost or counted twice, no
// command runs twice, the wish reaches all, and all boxes are back within a minute. It takes two minutes: CLUSTER=1.
func TestAnyNodeMayDie(t *testing.T) {
	if os.Getenv("BOXD_CLUSTER") == "" {
		t.Skip("optional: make test-cluster runs it (BOXD_CLUSTER)")
	}
	const n = 20
	c := newCluster(t)
	var boxes []*clusterBox
	for i := range n {
		boxes = append(boxes, c.startBox(i))
	}
	all := func() bool {
		for _, b := range boxes {
			if !b.mg.Status().Connected {
				return false
			}
		}
		return true
	}
	fleettest.Until(t, time.Minute, "all boxes are connected", all)
	fleettest.Until(t, time.Minute, "the registry knows all boxes", func() bool {
		var list []registry.Box
		c.manager(1).must(t, http.MethodGet, "/api/v1/boxes?brief=true", nil, &list)
		return len(list) == n
	})
	stop, gap := make(chan struct{}), c.watchGap(stopOf(t))
	var load sync.WaitGroup
	load.Go(func() { // every box gets two assets a second
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for i, b := range boxes {
					b.arrive(i)
				}
			}
		}
	})
	var cmds []string
	for round, victim := range []string{"n2", "f1", "n3"} {
		m := c.manager(1) // f2 is never killed
		var cmd struct{ ID string }
		m.must(t, http.MethodPost, "/api/v1/commands", map[string]any{"target": "group:default", "name": "refresh"}, &cmd)
		cmds = append(cmds, cmd.ID)
		fleettest.Until(
			t,
			30*time.Second,
			"some load has passed",
			func() bool { return len(boxes[0].Report().Holdings) > 10*(round+1) },
		)
		c.kill(victim)
		killed := time.Now()
		fleettest.Until(t, 2*time.Minute, "the wish is taken while a node is dead", func() bool {
			return m.do(
				t,
				m.token,
				http.MethodPut,
				"/api/v1/config/group:default",
				map[string]any{"wan_down": 1000 + round},
				nil,
			) == http.StatusOK
		})
		fleettest.Until(t, time.Minute, "all boxes are back", all)
		t.Logf("%s killed: all boxes back after %.1f s", victim, time.Since(killed).Seconds())
		c.start(victim)
		if victim == "f1" {
			fleettest.Until(t, time.Minute, "f1 is back", func() bool { return ready(c.apis[0]) })
		}
		fleettest.Until(t, time.Minute, "the wish has converged", func() bool {
			for _, b := range boxes {
				b.mu.Lock()
				v := b.config.WANDown
				b.mu.Unlock()
				if v == nil || *v != int64(1000+round) {
					return false
				}
			}
			return true
		})
	}
	close(stop)
	load.Wait()
	fleettest.Until(t, 2*time.Minute, "all outboxes are empty", func() bool {
		for _, b := range boxes {
			if b.mg.Status().Outbox > 0 {
				return false
			}
		}
		return true
	})
	c.checkProofs(boxes)
	m := c.manager(1)
	for _, id := range cmds {
		var got registry.Command
		t.Cleanup(func() {
			for _, a := range got.Answers {
				if a.Status != "done" {
					t.Logf("command %s: %+v; the box: %+v", id, a, m.box(t, a.Box))
				}
			}
		})
		fleettest.Until(t, 90*time.Second, "command "+id+" is answered by all", func() bool {
			got = registry.Command{}
			m.must(t, http.MethodGet, "/api/v1/commands/"+id, nil, &got)
			return got.Counts["done"] == n
		})
		for _, b := range boxes {
			b.mu.Lock()
			if b.ran[id] != 1 {
				t.Errorf("%s ran %s %d times", b.id, id, b.ran[id])
			}
			b.mu.Unlock()
		}
	}
	if g := gap(); g > 15*time.Second {
		t.Errorf("for %.1f s nothing was committed", g.Seconds())
	} else {
		t.Logf("longest gap without a commit: %.1f s", g.Seconds())
	}
}

func stopOf(t *testing.T) <-chan struct{} {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	return done
}

// watchGap measures the longest time in which no proof was committed, as f2 sees the common store.
func (c *cluster) watchGap(stop <-chan struct{}) func() time.Duration {
	var mu sync.Mutex
	var longest time.Duration
	go func() {
		last, at := -1, time.Now()
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			resp, err := http.Get(c.apis[1] + "/api/v1/publishers/operator/statement")
			if err != nil {
				continue
			}
			var lines []json.RawMessage
			err = json.NewDecoder(resp.Body).Decode(&lines)
			_ = resp.Body.Close()
			if err == nil && len(lines) != last {
				mu.Lock()
				if last >= 0 {
					longest = max(longest, time.Since(at))
				}
				mu.Unlock()
				last, at = len(lines), time.Now()
			}
		}
	}()
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return longest
	}
}

func (c *cluster) checkProofs(boxes []*clusterBox) {
	t := c.t
	var proofs []registry.Proof
	fleettest.Until(t, time.Minute, "every arrival is proven", func() bool { // the last may not be in an outbox yet
		held := 0
		for _, b := range boxes {
			held += len(b.Report().Holdings)
		}
		c.manager(1).must(t, http.MethodGet, "/api/v1/proofs?kind=arrived", nil, &proofs)
		return len(proofs) >= held
	})
	count := map[string]int{}
	for _, p := range proofs {
		count[p.Box+p.Asset.String()]++
	}
	total := 0
	for _, b := range boxes {
		for _, h := range b.Report().Holdings {
			total++
			if k := count[b.id+h.ID.String()]; k != 1 {
				t.Errorf("%s: the arrival of %s was counted %d times", b.id, h.ID.Short(), k)
			}
		}
	}
	if len(proofs) != total {
		t.Errorf("%d proofs of %d arrivals", len(proofs), total)
	}
	t.Logf("%d arrivals, all proven once", total)
}
