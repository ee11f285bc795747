package broker

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"boxd/internal/mqttwire"
)

// Endpoint is where and how to reach NATS.
type Endpoint struct {
	URL     string // nats://host:port[,…]
	Options []nats.Option
}

func (e Endpoint) connect(user, password, name string) (*nats.Conn, error) {
	opts := append([]nats.Option{
		nats.Name(name), nats.UserInfo(user, password), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(500*time.Millisecond, time.Second), nats.RetryOnFailedConnect(false),
		nats.Timeout(5 * time.Second), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(1 << 20),
	}, e.Options...)
	return nats.Connect(e.URL, opts...)
}

// Msg is one message of a box.
type Msg = mqttwire.Message

// BusOptions configures a Bus.
type BusOptions struct {
	Fleet    string
	At       Endpoint
	Creds    Creds
	MQTT     []string                                     // host:port of MQTT listeners, for retained messages
	MQTTTLS  func() *tls.Config                           // trusts that listener
	Handle   func(ctx context.Context, batch []Msg) error // commits a batch; on error it is delivered again
	Tele     func(Msg)                                    // must not block
	Abuse    func(box string)                             // a box filled the store; must not block
	Alone    bool                                         // there is one server, the embedded one
	Free     func() int64                                 // bytes that are left on the disk of the broker's store; nil: not known
	MaxBatch int                                          // 0 means 500
	Log      *slog.Logger
}

// Bus reads what boxes send, through one durable consumer that all fleetd of a fleet share, and speaks to boxes.
type Bus struct {
	o BusOptions

	mu    sync.Mutex // guards the fields below
	nc    *nats.Conn
	sys   *nats.Conn
	pub   mqtt.Client
	level StoreLevel
}

var errNotConnected = errors.New("not connected to the broker")

// consumerName is shared by all fleetd: each message goes to one of them.
const consumerName = "fleetd"

// NewBus makes a bus; Run connects it.
func NewBus(o BusOptions) *Bus {
	if o.MaxBatch == 0 {
		o.MaxBatch = 500
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Bus{o: o}
}

// Run works until ctx ends. ready is called once messages flow.
func (b *Bus) Run(ctx context.Context, ready func()) error {
	nc, err := b.o.At.connect(userFleetd, b.o.Creds.Fleetd, "fleetd")
	if err != nil {
		return fmt.Errorf("connect to nats: %w", err)
	}
	defer nc.Close()
	sys, err := b.o.At.connect(userSys, b.o.Creds.Sys, "fleetd-sys")
	if err != nil {
		return fmt.Errorf("connect to nats as system: %w", err)
	}
	defer sys.Close()
	b.mu.Lock()
	b.nc, b.sys = nc, sys
	b.mu.Unlock()
	if err := b.makeRoom(ctx, nc); err != nil { // before the publisher, which a full store would not let in
		b.o.Log.Warn("the broker's store was not looked at", "err", err)
	}
	watching, stopLevel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); b.watchLevel(watching, nc) }()
	defer func() { stopLevel(); <-done }()
	stopWatch, err := b.watchRetained(ctx, nc)
	if err != nil {
		return err
	}
	defer stopWatch()
	// The first MQTT client of the account makes the broker create its streams; the consumer needs them.
	if err := b.publisher(ctx); err != nil {
		return err
	}
	defer b.closePublisher()
	cons, err := b.consumer(ctx)
	if err != nil {
		return err
	}
	if b.o.Tele != nil {
		sub, err := nc.QueueSubscribe("boxd.v1."+b.o.Fleet+".*.tele", "fleetd", b.tele)
		if err != nil {
			return fmt.Errorf("subscribe to telemetry: %w", err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	ready()
	return b.consume(ctx, cons)
}

// consumer makes or finds the durable consumer. It has no filter, though only some topics matter: the broker goes through all
// subjects that it has, two for each box, whenever it looks for the next message of a filter. The boxes' rules let
// little else in.
func (b *Bus) consumer(ctx context.Context) (jetstream.Consumer, error) {
	b.mu.Lock()
	nc := b.nc
	b.mu.Unlock()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	var last error
	for range 30 {
		c, err := js.CreateOrUpdateConsumer(ctx, "$MQTT_msgs", jetstream.ConsumerConfig{
			Durable: consumerName, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second,
			MaxAckPending: 20_000, DeliverPolicy: jetstream.DeliverAllPolicy,
		})
		if err == nil {
			return c, nil
		}
		last = err
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return nil, fmt.Errorf("consumer of the boxes' messages: %w", last)
}

// consume takes messages in batches: one commit for many is what makes the store fast.
func (b *Bus) consume(ctx context.Context, cons jetstream.Consumer) error {
	work := make(chan jetstream.Msg, 2*b.o.MaxBatch)
	cc, err := cons.Consume(func(m jetstream.Msg) {
		select {
		case work <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessages(2*b.o.MaxBatch), jetstream.ConsumeErrHandler(
		func(_ jetstream.ConsumeContext, err error) { b.o.Log.Debug("consumer", "err", err) }))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	defer cc.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-cc.Closed():
			return errors.New("the consumer of the boxes' messages was closed")
		case first := <-work:
			raw := []jetstream.Msg{first}
			for len(raw) < b.o.MaxBatch && len(work) > 0 {
				raw = append(raw, <-work)
			}
			b.batch(ctx, raw)
		}
	}
}

func (b *Bus) batch(ctx context.Context, raw []jetstream.Msg) {
	msgs := make([]Msg, 0, len(raw))
	now := time.Now()
	for _, m := range raw {
		topic, err := mqttwire.ParseTopic(strings.ReplaceAll(strings.TrimPrefix(m.Subject(), "$MQTT.msgs."), ".", "/"))
		if err != nil {
			b.o.Log.Debug("message on an unknown topic", "subject", m.Subject())
			continue
		}
		if !fromBoxes(topic.Kind) { // it may write under its own name what is fleetd's to say: nobody listens
			continue
		}
		msgs = append(msgs, Msg{Topic: topic, Payload: m.Data(), Received: now})
	}
	if err := b.o.Handle(ctx, msgs); err != nil {
		b.o.Log.Warn("batch not stored; it will come again", "messages", len(msgs), "err", err)
		for _, m := range raw {
			_ = m.NakWithDelay(2 * time.Second)
		}
		select { // a database that is down or full is not asked in a tight loop
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		return
	}
	for _, m := range raw {
		if err := m.Ack(); err != nil {
			b.o.Log.Debug("broker not acknowledged; the message will come again and be known", "err", err)
		}
	}
}

func fromBoxes(kind mqttwire.Kind) bool {
	switch kind {
	case mqttwire.KindState, mqttwire.KindReported, mqttwire.KindEvent, mqttwire.KindCmdAck:
		return true
	}
	return false
}

func (b *Bus) tele(m *nats.Msg) {
	topic, err := mqttwire.ParseTopic(strings.ReplaceAll(m.Subject, ".", "/"))
	if err == nil && len(m.Data) <= mqttwire.MaxPayload {
		b.o.Tele(Msg{Topic: topic, Payload: m.Data, Received: time.Now()})
	}
}

// Send publishes to a box or group at QoS 0, not retained. It does not wait for anybody.
func (b *Bus) Send(topic string, payload []byte) error {
	b.mu.Lock()
	nc := b.nc
	b.mu.Unlock()
	if nc == nil {
		return errNotConnected
	}
	if err := nc.Publish(strings.ReplaceAll(topic, "/", "."), payload); err != nil {
		return fmt.Errorf("send %s: %w", topic, err)
	}
	return nil
}

// Retain publishes a retained message, which only MQTT knows. An empty payload clears it.
func (b *Bus) Retain(topic string, payload []byte) error {
	b.mu.Lock()
	pub := b.pub
	b.mu.Unlock()
	if pub == nil || !pub.IsConnectionOpen() {
		return errors.New("not connected to the broker's MQTT listener")
	}
	t := pub.Publish(topic, 0, true, payload)
	if !t.WaitTimeout(5 * time.Second) {
		return fmt.Errorf("retain %s: timeout", topic)
	}
	if t.Error() != nil {
		return fmt.Errorf("retain %s: %w", topic, t.Error())
	}
	return nil
}

func (b *Bus) publisher(ctx context.Context) error {
	o := mqtt.NewClientOptions().AddBroker("tls://" + b.o.MQTT[0]).SetClientID("fleetd-" + secret()[:12]).
		SetUsername(userFleetd).SetPassword(b.o.Creds.Fleetd).SetCleanSession(true).SetProtocolVersion(4).
		SetAutoReconnect(true).SetMaxReconnectInterval(5 * time.Second).SetWriteTimeout(5 * time.Second).
		SetOrderMatters(false).SetConnectTimeout(10 * time.Second).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: b.o.MQTTTLS()}
			return d.Dial("tcp", b.o.MQTT[rand.IntN(len(b.o.MQTT))]) // the next try takes another node
		})
	c := mqtt.NewClient(o)
	var last error
	for range 30 {
		t := c.Connect()
		if t.WaitTimeout(20*time.Second) && t.Error() == nil {
			b.mu.Lock()
			b.pub = c
			b.mu.Unlock()
			return nil
		}
		last = t.Error()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return fmt.Errorf("connect to the MQTT listener %s: %w", strings.Join(b.o.MQTT, ", "), last)
}

func (b *Bus) closePublisher() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pub != nil {
		b.pub.Disconnect(100)
	}
	b.pub, b.nc, b.sys = nil, nil, nil
}

// Kick closes the live connections of a box on every server: after a revocation.
func (b *Bus) Kick(box string) (int, error) {
	req, err := json.Marshal(map[string]any{"mqtt_client": box, "acc": accountFleet})
	if err != nil {
		return 0, err
	}
	kicked := 0
	err = b.askServers("CONNZ", req, func(sys *nats.Conn, server string, data json.RawMessage) {
		var list struct {
			Connections []struct {
				CID        uint64
				MQTTClient string `json:"mqtt_client"`
			}
		}
		if json.Unmarshal(data, &list) != nil {
			return
		}
		for _, c := range list.Connections {
			if c.MQTTClient != box {
				continue
			}
			// A request, though the answer says nothing: without a reply subject the server does nothing.
			kick := fmt.Appendf(nil, `{"cid":%d}`, c.CID)
			if _, err := sys.Request("$SYS.REQ.SERVER."+server+".KICK", kick, 2*time.Second); err == nil {
				kicked++
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("kick %s: %w", box, err)
	}
	return kicked, nil
}
