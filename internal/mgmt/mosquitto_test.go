package mgmt

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
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// mosquitto is Debian's broker with the rules of docs/mqtt.md: client certificates, the certificate's name as user name
// and client id, and access by pattern.
type mosquitto struct {
	addr string
	conf string
	cmd  *exec.Cmd
	pki  *testPKI
}

const mosquittoACL = `user fleetd
topic readwrite boxd/v1/#

pattern write boxd/v1/f1/%u/state
pattern write boxd/v1/f1/%u/reported
pattern write boxd/v1/f1/%u/tele
pattern write boxd/v1/f1/%u/evt/+
pattern write boxd/v1/f1/%u/cmd/+/ack
pattern read boxd/v1/f1/%u/desired
pattern read boxd/v1/f1/%u/cmd/+
pattern read boxd/v1/f1/%u/evt/+/ack
pattern read boxd/v1/f1/group/+/desired
`

func startMosquitto(t *testing.T) *mosquitto {
	t.Helper()
	if _, err := exec.LookPath("mosquitto"); err != nil {
		t.Skip("mosquitto is not installed")
	}
	dir, pki := t.TempDir(), newPKI(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cert, key := pki.files(t, dir, "server", x509.ExtKeyUsageServerAuth)
	files := map[string]string{
		"ca.pem": string(pki.pem),
		"acl":    mosquittoACL,
		"mosquitto.conf": fmt.Sprintf(
			"listener %d 127.0.0.1\nprotocol mqtt\ncafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate true\n"+
				"use_identity_as_username true\nallow_anonymous false\nacl_file %s\nmax_packet_size 65536\n"+
				"persistence false\nlog_type none\nuser root\n",
			addr.Port,
			filepath.Join(dir, "ca.pem"),
			cert,
			key,
			filepath.Join(dir, "acl"),
		),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := &mosquitto{addr: addr.String(), conf: filepath.Join(dir, "mosquitto.conf"), pki: pki}
	m.start(t)
	t.Cleanup(m.kill)
	return m
}

func (m *mosquitto) start(t *testing.T) {
	t.Helper()
	m.cmd = exec.Command("mosquitto", "-c", m.conf)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

// testPKI is a root that signs both sides.
type testPKI struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	pool *x509.CertPool
}

func newPKI(t *testing.T) *testPKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(
			1,
		),
		Subject:               pkix.Name{CommonName: "root"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p := &testPKI{
		cert: cert,
		key:  key,
		pem:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pool: x509.NewCertPool(),
	}
	p.pool.AddCert(cert)
	return p
}

func (p *testPKI) files(t *testing.T, dir, cn string, usage x509.ExtKeyUsage) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, p.cert, &k.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, cn+".pem"), filepath.Join(dir, cn+".key")
	blocks := map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kder}}
	for name, block := range blocks {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func (p *testPKI) client(t *testing.T, cn string) *tls.Config {
	t.Helper()
	cert, key := p.files(t, t.TempDir(), cn, x509.ExtKeyUsageClientAuth)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.pool, Certificates: []tls.Certificate{pair}}
}

// plainFleet is the fleet manager's side with nothing but an MQTT client, as an integrator might write it.
type plainFleet struct {
	client mqtt.Client

	mu    sync.Mutex // guards the fields below
	msgs  map[mqttwire.Kind][][]byte
	taken map[string]bool // box, epoch and number of what was counted
	order []uint64
	mute  bool // does not acknowledge
}

func startFleet(t *testing.T, m *mosquitto) *plainFleet {
	t.Helper()
	f := &plainFleet{msgs: map[mqttwire.Kind][][]byte{}, taken: map[string]bool{}}
	o := mqtt.NewClientOptions().AddBroker("tls://" + m.addr).SetClientID("fleetd").SetTLSConfig(m.pki.client(t, "fleetd")).
		SetMaxReconnectInterval(200 * time.Millisecond).SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond)
	o.SetOnConnectHandler(func(c mqtt.Client) {
		c.SubscribeMultiple(
			map[string]byte{
				"boxd/v1/f1/+/state":     1,
				"boxd/v1/f1/+/reported":  1,
				"boxd/v1/f1/+/tele":      0,
				"boxd/v1/f1/+/evt/+":     1,
				"boxd/v1/f1/+/cmd/+/ack": 1,
			},
			f.take,
		)
	})
	f.client = mqtt.NewClient(o)
	if tok := f.client.Connect(); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	t.Cleanup(func() { f.client.Disconnect(0) })
	return f
}

func (f *plainFleet) take(c mqtt.Client, msg mqtt.Message) {
	topic, err := mqttwire.ParseTopic(msg.Topic())
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.msgs[topic.Kind] = append(f.msgs[topic.Kind], msg.Payload())
	var e struct {
		Epoch string
		Evt   uint64
	}
	if json.Unmarshal(msg.Payload(), &e) != nil || e.Evt == 0 || f.mute {
		return
	}
	if key := fmt.Sprint(topic.Box, e.Epoch, e.Evt); !f.taken[key] {
		f.taken[key] = true
		f.order = append(f.order, e.Evt)
	}
	ack, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.EventAck{V: 1, Epoch: e.Epoch, Evt: e.Evt})
	if err == nil {
		c.Publish(mqttwire.BoxTopic("f1", topic.Box, mqttwire.EventAckTail(e.Evt)), 0, false, ack)
	}
}

func (f *plainFleet) last(k mqttwire.Kind, into mqttwire.Checker) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.msgs[k]
	return len(list) > 0 && mqttwire.Decode(list[len(list)-1], mqttwire.MaxPayload, into) == nil
}

// answered reports whether any answer has this status: the client hands messages over in any order.
func (f *plainFleet) answered(status string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.msgs[mqttwire.KindCmdAck], func(data []byte) bool {
		var ack mqttwire.CommandAck
		return mqttwire.Decode(data, mqttwire.MaxPayload, &ack) == nil && ack.Status == status
	})
}

func (f *plainFleet) numbers() []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.order)
}

func (f *plainFleet) setMute(v bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mute = v
}

func runBox(t *testing.T, m *mosquitto, box *fakeBox, path string, brokers ...string) (mg *Manager, stop func()) {
	t.Helper()
	db := openDB(t, path)
	cfg := m.pki.client(t, "box-a")
	mg = newManager(t, box, db, func(o *Options) {
		o.Brokers, o.TLS = append(brokers, "tls://"+m.addr), func() *tls.Config { return cfg }
		o.BackoffMin, o.BackoffMax = 20*time.Millisecond, 200*time.Millisecond
		o.ReportSoon, o.Resend = 20*time.Millisecond, 300*time.Millisecond
		o.TelePeriod = 100 * time.Millisecond
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mg.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return mg, stop
}

func TestMosquittoCarriesTheSameProtocol(t *testing.T) {
	m := startMosquitto(t)
	fleet, box := startFleet(t, m), newFakeBox()
	// A broker that is not there is tried too, and costs nothing but the try.
	mg, stop := runBox(t, m, box, filepath.Join(t.TempDir(), "state.db"), "tls://127.0.0.1:1")
	var st mqttwire.State
	waitUntil(t, "online", func() bool { return fleet.last(mqttwire.KindState, &st) && st.Online })
	var tele mqttwire.Tele
	waitUntil(t, "telemetry", func() bool { return fleet.last(mqttwire.KindTele, &tele) })

	fleet.client.Publish(mqttwire.GroupDesired("f1", "living"), 1, true, wishOf(t, "group:living", 7, `,"config":{"wan_up":9}`)).
		Wait()
	var rep mqttwire.Reported
	waitUntil(
		t,
		"the wish is applied",
		func() bool { return fleet.last(mqttwire.KindReported, &rep) && rep.GroupVersions["living"] == 7 },
	)

	raw, err := json.Marshal(command("c1", time.Now().Add(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		fleet.client.Publish(mqttwire.BoxTopic("f1", "box-a", mqttwire.CommandTail("c1")), 1, false, raw).Wait()
	}
	forged, err := json.Marshal(command("c9", time.Now().Add(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	fleet.client.Publish(mqttwire.BoxTopic("f1", "box-a", mqttwire.CommandTail("c8")), 1, false, forged).
		Wait()
		// signed for another id
	fleet.client.Publish(mqttwire.BoxTopic("f1", "box-a", mqttwire.CommandTail("c2")), 1, false, "forged").Wait()
	waitUntil(t, "the answer", func() bool { return fleet.answered(mqttwire.StatusDone) })

	box.set(func(r *Report) { r.Holdings = []Holding{{ID: asset.ID{9}, Size: 1, At: time.Now()}} })
	waitUntil(t, "the proof is acknowledged", func() bool { return len(fleet.numbers()) == 2 && mg.Status().Outbox == 0 })
	if ran := box.ran(); !slices.Equal(ran, []string{"c1"}) {
		t.Errorf("ran %v", ran)
	}
	stop()
	waitUntil(
		t,
		"said goodbye",
		func() bool { return fleet.last(mqttwire.KindState, &st) && !st.Online && st.Reason == "stopping" },
	)
}

func TestABrokerThatDiesLosesNothing(t *testing.T) {
	m := startMosquitto(t)
	fleet, box := startFleet(t, m), newFakeBox()
	path := filepath.Join(t.TempDir(), "state.db")
	mg, stop := runBox(t, m, box, path)
	waitUntil(t, "connected", func() bool { return mg.Status().Connected })
	fleet.setMute(true) // the broker acknowledges, the manager does not
	var held []Holding
	add := func(n int) {
		for range n {
			held = append(held, Holding{ID: asset.ID{byte(len(held) + 1)}, Size: 1, At: time.Now()})
		}
		list := slices.Clone(held)
		box.set(func(r *Report) { r.Holdings = list })
	}
	add(20)
	waitUntil(t, "published", func() bool {
		fleet.mu.Lock()
		defer fleet.mu.Unlock()
		return len(fleet.msgs[mqttwire.KindEvent]) >= inFlight
	})
	m.kill() // the broker forgets all
	add(20)
	stop() // and so does the box's memory
	m.start(t)
	fleet.setMute(false)
	mg, _ = runBox(t, m, box, path)
	waitUntil(t, "all proofs are acknowledged", func() bool { return len(fleet.numbers()) == 40 && mg.Status().Outbox == 0 })
	numbers := fleet.numbers()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i+1) { //nolint:gosec // a small index
			t.Fatalf("numbers %v", numbers)
		}
	}
}

func TestTheWillOfAMosquittoSession(t *testing.T) {
	m := startMosquitto(t)
	fleet, box := startFleet(t, m), newFakeBox()
	mg, _ := runBox(t, m, box, filepath.Join(t.TempDir(), "state.db"))
	waitUntil(t, "connected", func() bool { return mg.Status().Connected })
	// Another session of the same box throws the first one out: its will must carry the older sid.
	o := mqtt.NewClientOptions().
		AddBroker("tls://" + m.addr).
		SetClientID("box-a").
		SetTLSConfig(m.pki.client(t, "box-a")).
		SetAutoReconnect(false)
	c := mqtt.NewClient(o)
	if tok := c.Connect(); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer c.Disconnect(0)
	waitUntil(t, "will of sid 1, then state of a later one", func() bool {
		fleet.mu.Lock()
		defer fleet.mu.Unlock()
		var will, later bool
		for _, raw := range fleet.msgs[mqttwire.KindState] {
			var s mqttwire.State
			if mqttwire.Decode(raw, mqttwire.MaxPayload, &s) != nil {
				continue
			}
			will = will || !s.Online && s.SID == 1 && s.Seq == 0
			later = later || s.Online && s.SID > 1
		}
		return will && later
	})
}
