package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/repo"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

// operator speaks the fleet manager's side of the protocol through mosquitto: it notes what boxes say, acknowledges their
// events and sends signed commands.
type operator struct {
	t      *testing.T
	client mqtt.Client

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	fleet   string
	online  map[string]bool
	ready   map[string]map[string]bool // box, asset: proof of arrival
	seen    map[string]int             // "box/event number": how often
	acks    map[string][]string        // "box/command": statuses
	reports map[string]mqttwire.Reported
}

// mosquitto runs Debian's broker with the fleet's certificates: boxes on a TLS listener, each under its own name only,
// and the operator on another port.
func mosquitto(t *testing.T, f *Fleet) (boxes, operators string) {
	t.Helper()
	dir := t.TempDir()
	store, err := ca.OpenStore(filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	authority, err := ca.Open(t.Context(), ca.Options{Dir: filepath.Join(f.Dir(), "ca"), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.ServerPEM([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ports := make([]int, 2)
	if err := freePorts(ports); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conf := put("mosquitto.conf", fmt.Sprintf(`user root
per_listener_settings true
listener %d 127.0.0.1
cafile %s
certfile %s
keyfile %s
require_certificate true
use_identity_as_username true
acl_file %s
listener %d 127.0.0.1
allow_anonymous true
`, ports[0], put("ca.pem", string(authority.ClientCAsPEM())), put("cert.pem", string(cert)), put("key.pem", string(key)),
		put("acl", "pattern readwrite boxd/v1/+/%u/#\npattern read boxd/v1/+/group/#\n"), ports[1]))
	p, err := startProcess("mosquitto", filepath.Join(dir, "log"), "mosquitto", "-c", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("mosquitto: %v", err)
		}
	})
	return fmt.Sprintf("tls://127.0.0.1:%d", ports[0]), fmt.Sprintf("tcp://127.0.0.1:%d", ports[1])
}

func newOperator(t *testing.T, broker string) *operator {
	t.Helper()
	o := &operator{
		t: t, changed: make(chan struct{}, 1), online: map[string]bool{}, ready: map[string]map[string]bool{},
		seen: map[string]int{}, acks: map[string][]string{}, reports: map[string]mqttwire.Reported{},
	}
	opts := mqtt.NewClientOptions().AddBroker(broker).SetClientID("operator").SetOrderMatters(false).
		SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond)
	o.client = mqtt.NewClient(opts)
	if tok := o.client.Connect(); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatalf("operator: %v", tok.Error())
	}
	t.Cleanup(func() { o.client.Disconnect(100) })
	if tok := o.client.Subscribe("boxd/v1/#", 1, o.receive); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatalf("operator: %v", tok.Error())
	}
	return o
}

func (o *operator) receive(c mqtt.Client, m mqtt.Message) {
	topic, err := mqttwire.ParseTopic(m.Topic())
	if err != nil {
		o.t.Errorf("a box publishes on %q: %v", m.Topic(), err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fleet = topic.Fleet
	switch topic.Kind {
	case mqttwire.KindState:
		var s mqttwire.State
		o.decode(m, &s)
		o.online[topic.Box] = s.Online
	case mqttwire.KindReported:
		var r mqttwire.Reported
		o.decode(m, &r)
		o.reports[topic.Box] = r
	case mqttwire.KindEvent:
		var e mqttwire.Event
		o.decode(m, &e)
		if e.Kind == mqttwire.EventArrived {
			if o.ready[topic.Box] == nil {
				o.ready[topic.Box] = map[string]bool{}
			}
			o.ready[topic.Box][e.Asset.String()] = true
		}
		o.ack(c, topic.Box, e.Epoch, e.Evt)
	case mqttwire.KindCmdAck:
		var a mqttwire.CommandAck
		o.decode(m, &a)
		key := topic.Box + "/" + a.ID
		o.acks[key] = append(o.acks[key], a.Status)
		if a.Evt != 0 {
			o.ack(c, topic.Box, a.Epoch, a.Evt)
		}
	}
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *operator) decode(m mqtt.Message, into mqttwire.Checker) {
	if err := mqttwire.Decode(m.Payload(), mqttwire.MaxPayload, into); err != nil {
		o.t.Errorf("%s: %v: %s", m.Topic(), err, m.Payload())
	}
}

// ack says that an event was stored. It does not wait: this runs on the client's own goroutine.
func (o *operator) ack(c mqtt.Client, box, epoch string, n uint64) {
	payload, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.EventAck{V: mqttwire.Version, Epoch: epoch, Evt: n})
	if err != nil {
		o.t.Error(err)
		return
	}
	c.Publish(mqttwire.BoxTopic(o.fleet, box, mqttwire.EventAckTail(n)), 1, false, payload)
}

// command sends a command until it is answered, as the fleet manager does: a box that has no catalog yet cannot know who
// may command it. The answers may come in any order.
func (o *operator) command(ctx context.Context, box, id string, msg []byte) {
	o.t.Helper()
	next := time.Now()
	o.until(ctx, box+" obeying", func() bool {
		if !time.Now().Before(next) {
			next = time.Now().Add(2 * time.Second)
			o.client.Publish(mqttwire.BoxTopic(o.fleet, box, mqttwire.CommandTail(id)), 1, false, msg)
		}
		return slices.Contains(o.acks[box+"/"+id], mqttwire.StatusDone)
	})
}

// until waits until something holds of what the boxes said.
func (o *operator) until(ctx context.Context, what string, holds func() bool) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		o.mu.Lock()
		ok := holds()
		o.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-o.changed:
		case <-time.After(500 * time.Millisecond): // for what is to be done again
		case <-ctx.Done():
			o.mu.Lock()
			defer o.mu.Unlock()
			o.t.Fatalf("%s did not happen: online %v, ready %v, answers %v", what, o.online, o.ready, o.acks)
		}
	}
}

// The box side of the protocol needs nothing of NATS: the same home reports to and obeys through mosquitto.
func TestMosquittoInPlaceOfNATS(t *testing.T) {
	o := options(t)
	o.BulkBytes = 32 << 20
	var op *operator
	o.Brokers = func(f *Fleet) ([]string, error) {
		boxes, operators := mosquitto(t, f)
		op = newOperator(t, operators)
		return []string{boxes}, nil
	}
	h := start(t, o)
	// Nobody rings the bell here: the boxes would find the campaign at their next look, a command makes it now.
	key, err := os.ReadFile(filepath.Join(h.Fleet.Dir(), "keys", "operations.pem"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := repo.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	op.until(t.Context(), "every box online", func() bool { return len(op.online) == len(h.Boxes) && all(op.online) })
	op.mu.Lock()
	boxes := slices.Sorted(maps.Keys(op.online))
	op.mu.Unlock()
	for _, box := range boxes {
		payload, err := json.Marshal(mqttwire.Command{V: mqttwire.Version, Name: "refresh"})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		msg, err := ops.SignMessage(signer, ops.Message{
			Fleet: op.fleet, To: box, Kind: "command", ID: "refresh-" + box, Issued: now, Expires: now.Add(time.Minute), Payload: payload,
		})
		if err != nil {
			t.Fatal(err)
		}
		op.command(t.Context(), box, "refresh-"+box, msg)
	}
	r, err := h.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	op.until(t.Context(), "proofs of arrival of everything", func() bool {
		for box := range op.online {
			if len(op.ready[box]) != len(h.Films) || op.reports[box].Holdings.Count != len(h.Films) {
				return false
			}
		}
		return true
	})
	h.Boxes[0].Kill()
	op.until(t.Context(), "the will of the box that was killed", func() bool { return !all(op.online) })
}

func all(m map[string]bool) bool {
	for _, v := range m {
		if !v {
			return false
		}
	}
	return true
}
