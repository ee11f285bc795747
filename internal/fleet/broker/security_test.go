package broker_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"boxd/internal/fleet/broker"
	"boxd/internal/mqttwire"
)

// attacker connects with whatever it has.
func attacker(r *rig, clientID string, cfg *tls.Config, will string, more ...func(*mqtt.ClientOptions)) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker("tls://" + r.addr).SetClientID(clientID).SetTLSConfig(cfg).SetAutoReconnect(false).
		SetConnectTimeout(time.Minute).SetProtocolVersion(4)
	if will != "" {
		o.SetWill(will, "forged", 1, true)
	}
	for _, set := range more {
		set(o)
	}
	c := mqtt.NewClient(o)
	t := c.Connect()
	if !t.WaitTimeout(time.Minute) {
		return nil, fmt.Errorf("no answer")
	}
	return c, t.Error()
}

// bothWays runs a test with the embedded server's own way to judge connections, and with the auth callout.
func bothWays(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, newRig(t)) })
	t.Run("callout", func(t *testing.T) { test(t, newRig(t, true)) })
}

func TestNobodyConnectsWithoutItsOwnName(t *testing.T) { bothWays(t, nobodyConnectsWithoutItsOwnName) }

func nobodyConnectsWithoutItsOwnName(t *testing.T, r *rig) {
	none := &tls.Config{RootCAs: r.ca.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}
	foreign := newCA(t).box(t, "box-a", "living")
	foreign.RootCAs = r.ca.pool
	for name, c := range map[string]struct {
		id  string
		cfg *tls.Config
	}{
		"no certificate":              {"box-a", none},
		"another fleet's":             {"box-a", foreign},
		"another box's id":            {"box-b", r.ca.box(t, "box-a", "living")},
		"no id":                       {"", r.ca.box(t, "box-a", "living")},
		"the id of fleetd":            {"fleetd", r.ca.box(t, "box-a", "living")},
		"a wildcard":                  {"+", r.ca.box(t, "+", "living")},
		"a name with levels":          {"a/b", r.ca.box(t, "a/b", "living")},
		"the word for groups":         {"group", r.ca.box(t, "group", "living")},
		"a revoked certificate":       {"revoked-1", r.ca.box(t, "revoked-1", "living")},
		"the manager's own intent":    {"fleetd-000000000000", none},
		"a name that is too long":     {strings.Repeat("a", 41), r.ca.box(t, strings.Repeat("a", 41), "living")},
		"a server's role (usage)":     {"box-a", serverAsBox(t, r)},
		"a name with a subject's dot": {"box.a", r.ca.box(t, "box.a", "living")},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := attacker(r, c.id, c.cfg, "")
			if err == nil {
				c.Disconnect(0)
				t.Fatal("connected")
			}
		})
	}
	ok, err := attacker(r, "box-a", r.ca.box(t, "box-a", "living"), "")
	if err != nil {
		t.Fatal("an honest box is refused: ", err)
	}
	ok.Disconnect(0)
}

func serverAsBox(t *testing.T, r *rig) *tls.Config {
	cfg := r.ca.server(t)
	return &tls.Config{RootCAs: r.ca.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13, Certificates: cfg.Certificates}
}

func TestNobodyIsFleetdWithoutItsPassword(t *testing.T) {
	r := newRig(t)
	cfg := r.ca.box(t, "box-a", "living")
	for _, user := range []string{"fleetd", "fleetd-sys", "fleetd-auth", "box-a"} {
		for _, password := range []string{"", "guess"} {
			c, err := attacker(r, "box-a", cfg, "", func(o *mqtt.ClientOptions) { o.SetUsername(user).SetPassword(password) })
			if err == nil {
				c.Disconnect(0)
				t.Errorf("%q with password %q connected", user, password)
			}
		}
	}
}

func TestASessionEndsWithItsCertificate(t *testing.T) { bothWays(t, aSessionEndsWithItsCertificate) }

func aSessionEndsWithItsCertificate(t *testing.T, r *rig) {
	gone := make(chan error, 1)
	_, err := attacker(r, "ends-soon", r.ca.box(t, "ends-soon", "living"), "", func(o *mqtt.ClientOptions) {
		o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { gone <- err })
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("it is still connected")
	}
}

func TestABoxCannotSpeakForAnother(t *testing.T) { bothWays(t, aBoxCannotSpeakForAnother) }

func aBoxCannotSpeakForAnother(t *testing.T, r *rig) {
	evil, err := attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Disconnect(0)
	for _, topic := range []string{
		"boxd/v1/f1/box-a/state", "boxd/v1/f1/box-a/reported", "boxd/v1/f1/box-a/evt/1", "boxd/v1/f1/box-a/cmd/c1/ack",
		"boxd/v1/f1/box-a/desired", "boxd/v1/f1/box-a/cmd/c1", "boxd/v1/f1/group/kitchen/desired", "boxd/v1/f1/box-evil/desired",
		"boxd/v1/f1/box-evil/cmd/c1", "boxd/v1/f2/box-evil/state", "$SYS/REQ/SERVER/PING", "$JS/API/STREAM/LIST",
		"$MQTT/msgs/boxd/v1/f1/box-a/state",
		"boxd/v1/f1/box-evil/state/more",
	} {
		evil.Publish(topic, 1, true, "forged").WaitTimeout(2 * time.Second) // acknowledged, although it is refused
	}
	own, err := mqttwire.Encode(
		mqttwire.MaxPayload,
		&mqttwire.State{Envelope: mqttwire.Envelope{V: 1, Epoch: "epoch-of-evil", SID: 1, Seq: 1}, Online: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	if !evil.IsConnectionOpen() { // some of these end the session, which is as good
		if evil, err = attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), ""); err != nil {
			t.Fatal(err)
		}
	}
	evil.Publish("boxd/v1/f1/box-evil/state", 1, true, own)
	r.wait(t, "the box's own state", func(m broker.Msg) bool {
		if m.Topic.Box != "box-evil" || m.Topic.Kind != mqttwire.KindState || string(m.Payload) == "forged" {
			t.Errorf("%+v: %s came through", m.Topic, m.Payload)
		}
		return m.Topic.Box == "box-evil"
	})
}

// A forged will is accepted with the connect (3.1.1 has no other answer) and must go nowhere when the session dies.
func TestAWillUnderAnotherNameGoesNowhere(t *testing.T) {
	bothWays(t, aWillUnderAnotherNameGoesNowhere)
}

func aWillUnderAnotherNameGoesNowhere(t *testing.T, r *rig) {
	victim := startBox(t, r, "box-a", "living", newBox())
	r.wait(t, "box-a", func(m broker.Msg) bool { return m.Topic.Box == "box-a" && m.Topic.Kind == mqttwire.KindState })
	for _, will := range []string{"boxd/v1/f1/box-a/state", "boxd/v1/f1/box-a/desired", "boxd/v1/f1/group/living/desired"} {
		d := tls.Dialer{Config: r.ca.box(t, "box-evil", "kitchen")}
		conn, err := d.DialContext(t.Context(), "tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		o := mqtt.NewClientOptions().
			AddBroker("tls://"+r.addr).
			SetClientID("box-evil").
			SetAutoReconnect(false).
			SetWill(will, "forged", 1, true).
			SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil })
		c := mqtt.NewClient(o)
		if tok := c.Connect(); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
			continue // refused at once is as good
		}
		if err := conn.Close(); err != nil { // dies without DISCONNECT: the broker publishes the will
			t.Log(err)
		}
	}
	late := newBox()
	startBox(t, r, "box-b", "living", late) // would get the forged retained wish of its group
	r.wait(t, "a later message", func(m broker.Msg) bool {
		if string(m.Payload) == "forged" {
			t.Errorf("%+v: the will came through", m.Topic)
		}
		return m.Topic.Box == "box-b" && m.Topic.Kind == mqttwire.KindReported
	})
	if victim.Status().Sessions != 1 {
		t.Error("the victim lost its session")
	}
}

func TestABoxCannotListenToOthers(t *testing.T) { bothWays(t, aBoxCannotListenToOthers) }

func aBoxCannotListenToOthers(t *testing.T, r *rig) {
	evil, err := attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Disconnect(0)
	heard := make(chan string, 100)
	for _, topic := range []string{
		"boxd/v1/f1/box-a/desired", "boxd/v1/f1/box-a/cmd/+", "boxd/v1/f1/+/cmd/+", "boxd/v1/f1/box-a/evt/+/ack",
		"boxd/v1/f1/group/living/desired",
		"boxd/v1/f1/group/+/desired", "boxd/#", "#", "+/+/+/+/+", "$SYS/#", "boxd/v1/f1/box-a/state", "$MQTT/#",
	} {
		if evil == nil || !evil.IsConnectionOpen() {
			if evil, err = attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), ""); err != nil {
				t.Fatal(err)
			}
		}
		tok := evil.Subscribe(topic, 0, func(_ mqtt.Client, m mqtt.Message) {
			if !strings.Contains(m.Topic(), "/box-evil/") { // paho hands its own messages to all handlers that match
				heard <- m.Topic() + " by " + topic
			}
		})
		if tok.WaitTimeout(5*time.Second) && tok.Error() == nil {
			st, ok := tok.(*mqtt.SubscribeToken)
			if !ok || st.Result()[topic] != 0x80 {
				t.Errorf("subscription to %s was granted: %v", topic, st.Result())
			}
		}
	}
	for topic, payload := range map[string]string{
		"boxd/v1/f1/box-a/desired": "secret", "boxd/v1/f1/box-a/cmd/c1": "secret", "boxd/v1/f1/group/living/desired": "secret",
	} {
		if err := r.bus.Retain(topic, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		if err := r.bus.Send(topic, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	// What it may hear comes after what it may not, over the same connection.
	own := make(chan struct{}, 10)
	if evil == nil || !evil.IsConnectionOpen() {
		if evil, err = attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), ""); err != nil {
			t.Fatal(err)
		}
	}
	evil.Subscribe("boxd/v1/f1/box-evil/cmd/+", 0, func(mqtt.Client, mqtt.Message) { own <- struct{}{} }).Wait()
	if err := r.bus.Send("boxd/v1/f1/box-evil/cmd/c1", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-own:
	case <-time.After(time.Minute):
		t.Fatal("the box does not hear its own command")
	}
	select {
	case topic := <-heard:
		t.Errorf("heard %s", topic)
	default:
	}
}

// A box whose own idea of its group is wrong must notice that its subscription was refused, and say so.
func TestARefusedSubscriptionIsNoticed(t *testing.T) {
	r := newRig(t)
	cfg := r.ca.box(t, "box-a", "living")
	m := startBoxAs(t, r, "box-a", "kitchen", newBox(), cfg)
	waitFor(t, "the refusal", func() bool {
		return !m.Status().Connected && strings.Contains(m.Status().LastError, "refused a subscription")
	})
}
