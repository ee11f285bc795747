package mgmt

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"boxd/internal/health"
	"boxd/internal/mqttwire"
)

const (
	inboundQueue = 64 // messages from the broker that wait for the session's loop; more are dropped, and come again
	inFlight     = 16 // outbox messages that are sent and not acknowledged

	// The MQTT client keeps each message of QoS 1 until it is acknowledged, a repeated one once more: with so many open no more
	// are handed to it, and after this time the broker is given up.
	maxOpen  = 64
	openTime = 10 * time.Minute

	tokenWait = 20 * time.Second
)

var errSubscription = errors.New("the broker refused a subscription")

type inbound struct {
	topic   string
	payload []byte
}

// session is one connection. Its loop goroutine owns all fields.
type session struct {
	m       *Manager
	client  mqtt.Client
	fleet   string
	box     string
	groups  []string
	sid     uint64
	seq     uint64
	in      chan inbound
	lost    chan error
	sent    map[uint64]time.Time // outbox numbers in flight → when they were last sent
	acked   []uint64
	cursor  uint64 // outbox numbers up to here were sent in this session
	urgent  uint64 // hashes of the last report
	all     uint64
	lastRep time.Time
	idleIn  time.Duration // until the next report without a change, with jitter
	open    []open        // messages of QoS 1 that the broker has not acknowledged, oldest first
}

// open is a message that waits for its PUBACK.
type open struct {
	token mqtt.Token
	since time.Time
}

// session connects to one broker and talks until the connection is lost or ctx ends. lasted is 0 when there never was
// a session.
func (m *Manager) session(ctx context.Context, broker string) (lasted time.Duration, err error) {
	identity := m.o.IdentityChanged()
	s := &session{
		m: m, fleet: m.o.Fleet(), box: m.o.BoxID(), groups: slices.Clone(m.o.Groups()),
		in: make(chan inbound, inboundQueue), lost: make(chan error, 1), sent: map[uint64]time.Time{},
	}
	if s.sid, err = nextSID(m.o.DB); err != nil {
		return 0, err
	}
	if err := s.connect(ctx, broker); err != nil {
		return 0, err
	}
	began := time.Now()
	defer s.client.Disconnect(0)
	if err := s.subscribe(ctx); err != nil {
		if ctx.Err() != nil {
			return 0, err // stopping is no refusal
		}
		m.o.Health.Raise(health.Warning{
			Code: CodeRefused, Severity: health.Warn, Text: err.Error(), Action: "check the box's group and the broker's rules",
		})
		return 0, err
	}
	m.o.Health.Clear(CodeRefused)
	m.o.Health.Clear(CodeUnreachable)
	m.status.set(func(st *Status) {
		st.Connected, st.Broker, st.Since, st.LastError = true, broker, began, ""
		st.Sessions++
	})
	m.o.Log.Info("mqtt session", "broker", broker, "sid", s.sid)
	err = s.loop(ctx, identity)
	return time.Since(began), err
}

func (s *session) connect(ctx context.Context, broker string) error {
	m := s.m
	u, err := url.Parse(broker)
	if err != nil {
		return err
	}
	will, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.State{Envelope: s.envelope(0), Reason: "will"})
	if err != nil {
		return err
	}
	o := mqtt.NewClientOptions().AddBroker(broker).SetClientID(s.box).SetCleanSession(true).SetProtocolVersion(4).
		SetAutoReconnect(false).SetConnectRetry(false).SetOrderMatters(false).SetResumeSubs(false).
		SetKeepAlive(m.o.KeepAlive).SetPingTimeout(15*time.Second).SetWriteTimeout(10*time.Second).
		SetConnectTimeout(15*time.Second).SetMaxResumePubInFlight(inFlight).
		SetBinaryWill(mqttwire.BoxTopic(s.fleet, s.box, "state"), will, 1, true).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.lose(err) }).
		SetDefaultPublishHandler(s.enqueue).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return m.dial(ctx, u) })
	s.client = mqtt.NewClient(o)
	token := s.client.Connect()
	if err := waitToken(ctx, token); err != nil {
		s.client.Disconnect(0)
		if refusedConnect(token) {
			m.o.Health.Raise(health.Warning{
				Code: CodeRefused, Severity: health.Warn, Text: "the broker refused this box: " + err.Error(),
				Action: "look the box up with fleetd boxes: its certificate may be revoked",
			})
		}
		return fmt.Errorf("connect to %s: %w", broker, err)
	}
	return nil
}

func refusedConnect(t mqtt.Token) bool {
	ct, ok := t.(*mqtt.ConnectToken)
	return ok && (ct.ReturnCode() == 4 || ct.ReturnCode() == 5) // MQTT 3.1.1, table 3.1
}

func (s *session) lose(err error) {
	select {
	case s.lost <- err:
	default:
	}
}

// enqueue is called by paho on its own goroutines; it never blocks. What does not fit is sent again by the fleet
// manager, which goes on until it is answered.
func (s *session) enqueue(_ mqtt.Client, msg mqtt.Message) {
	if len(msg.Payload()) > maxPacket {
		return
	}
	select {
	case s.in <- inbound{msg.Topic(), msg.Payload()}:
	default:
		s.m.o.Log.Warn("inbound queue full", "topic", msg.Topic())
	}
}

// subscribe checks each return code of the SUBACK: 0x80 is a refusal that paho reports as success.
func (s *session) subscribe(ctx context.Context) error {
	topics := map[string]byte{
		mqttwire.BoxTopic(s.fleet, s.box, "desired"):   0,
		mqttwire.BoxTopic(s.fleet, s.box, "cmd/+"):     0,
		mqttwire.BoxTopic(s.fleet, s.box, "evt/+/ack"): 0,
	}
	for _, g := range s.groups {
		topics[mqttwire.GroupDesired(s.fleet, g)] = 0
	}
	t := s.client.SubscribeMultiple(topics, nil)
	if err := waitToken(ctx, t); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	st, ok := t.(*mqtt.SubscribeToken)
	if !ok {
		return fmt.Errorf("subscribe: unexpected token %T", t)
	}
	for topic, code := range st.Result() {
		if code > 2 {
			return fmt.Errorf("%w: %s (0x%x)", errSubscription, topic, code)
		}
	}
	return nil
}

func waitToken(ctx context.Context, t mqtt.Token) error {
	timer := time.NewTimer(tokenWait)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errors.New("the broker did not answer in time")
	}
}

func (s *session) envelope(seq uint64) mqttwire.Envelope {
	now, _ := s.m.o.Now()
	return mqttwire.Envelope{
		V: mqttwire.Version, Epoch: s.m.epoch, SID: s.sid, Seq: seq, TS: now.UTC().Truncate(time.Millisecond),
		MonoMS: time.Since(s.m.start).Milliseconds(),
	}
}

func (s *session) next() mqttwire.Envelope { s.seq++; return s.envelope(s.seq) }

// publish hands a message to paho. A completed token would prove nothing after a reconnect, and a denied publish is
// acknowledged too, so tokens are only watched for errors.
func (s *session) publish(tail string, qos byte, retained bool, payload []byte) error {
	t := s.client.Publish(mqttwire.BoxTopic(s.fleet, s.box, tail), qos, retained, payload)
	select {
	case <-t.Done():
		if t.Error() != nil {
			return fmt.Errorf("publish %s: %w", tail, t.Error())
		}
	default:
		if qos > 0 {
			s.open = append(s.open, open{t, time.Now()})
		}
	}
	s.m.status.set(func(st *Status) { st.Published++ })
	return nil
}

// full says that the broker owes so many acknowledgements that what can wait does; the error, that it is given up.
func (s *session) full(now time.Time) (bool, error) {
	s.open = slices.DeleteFunc(s.open, func(o open) bool {
		select {
		case <-o.token.Done():
			return true
		default:
			return false
		}
	})
	if len(s.open) > 0 && now.Sub(s.open[0].since) > openTime {
		return true, fmt.Errorf("the broker has acknowledged nothing that was sent %s ago", openTime)
	}
	return len(s.open) >= maxOpen, nil
}

func (s *session) loop(ctx context.Context, identity <-chan struct{}) error {
	if err := s.sayState(true, ""); err != nil {
		return err
	}
	s.m.desired.apply(ctx)
	tick := time.NewTicker(min(s.m.o.ReportSoon, time.Second))
	defer tick.Stop()
	for {
		if err := s.pump(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if s.sayState(false, "stopping") == nil {
				s.client.Disconnect(250)
			}
			return nil
		case err := <-s.lost:
			return fmt.Errorf("connection lost: %w", err)
		case <-identity:
			identity = s.m.o.IdentityChanged()
			if s.m.o.BoxID() != s.box || !slices.Equal(s.m.o.Groups(), s.groups) {
				return errors.New("the identity changed")
			}
		case msg := <-s.in:
			if err := s.receive(ctx, msg); err != nil {
				return err
			}
		case ack := <-s.m.cmds.accepted:
			ack.Envelope = s.next()
			data, err := mqttwire.Encode(mqttwire.MaxPayload, &ack)
			if err != nil {
				s.m.o.Log.Error("answer not sent", "command", ack.ID, "err", err)
				continue
			}
			if err := s.publish(mqttwire.CommandAckTail(ack.ID), 1, false, data); err != nil {
				return err
			}
		case <-s.m.outbox.Changed():
		case <-tick.C:
			if err := s.m.desired.retry(ctx); err != nil {
				return err
			}
		}
	}
}

// pump sends all that is due: acknowledged numbers leave the outbox, new ones go out, then the report and telemetry.
func (s *session) pump() error {
	if len(s.acked) > 0 {
		if err := s.m.outbox.remove(s.acked); err != nil {
			return err
		}
		s.acked = s.acked[:0]
	}
	full, err := s.full(time.Now())
	if err == nil && !full {
		err = errors.Join(s.sendOutbox(), s.sendReport())
	}
	if err != nil {
		return err
	}
	for _, t := range s.m.tele.take() {
		env := s.next()
		env.TS, env.MonoMS = t.TS, t.MonoMS
		t.Envelope, t.Dropped = env, s.m.tele.dropped()
		data, err := mqttwire.Encode(mqttwire.MaxPayload, &t)
		if err != nil {
			continue
		}
		if err := s.publish("tele", 0, false, data); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) sendOutbox() error {
	now := time.Now()
	from, limit := s.cursor, inFlight-len(s.sent)
	for n, at := range s.sent {
		if now.Sub(at) > s.m.o.Resend { // go back to the oldest that was not acknowledged, in order
			from, limit = min(from, n-1), inFlight
		}
	}
	if limit <= 0 {
		return nil
	}
	if from == s.cursor && s.m.outbox.length() <= len(s.sent) {
		return nil
	}
	records, err := s.m.outbox.after(from, limit)
	if err != nil {
		return err
	}
	for _, r := range records {
		n := r.number()
		if at, flying := s.sent[n]; flying && now.Sub(at) <= s.m.o.Resend {
			continue
		}
		tail, data, err := r.message(s.next())
		if err != nil { // cannot be sent in this form, ever: say so and do not let it block the others
			s.m.o.Log.Error("outbox message dropped", "number", n, "err", err)
			s.acked = append(s.acked, n)
			continue
		}
		if err := s.publish(tail, 1, false, data); err != nil {
			return err
		}
		s.sent[n] = now
		s.cursor = max(s.cursor, n)
	}
	return nil
}

func (s *session) sendReport() error {
	since := time.Since(s.lastRep)
	if since < s.m.o.ReportSoon {
		return nil
	}
	r, urgent, all := s.m.reported()
	due := s.lastRep.IsZero() || urgent != s.urgent || all != s.all && since >= s.m.o.ReportMoving || since >= s.idleIn
	if !due {
		return nil
	}
	r.Envelope = s.next()
	data, err := encodeReported(r)
	if err != nil {
		s.m.o.Log.Error("report not sent", "err", err)
		s.lastRep = time.Now()
		return nil
	}
	if err := s.publish("reported", 1, true, data); err != nil {
		return err
	}
	idle := s.m.desired.reportIdle()
	s.urgent, s.all, s.lastRep, s.idleIn = urgent, all, time.Now(), idle*3/4+backoff(idle/4, idle/4, 0)
	return nil
}

func (s *session) sayState(online bool, reason string) error {
	st := &mqttwire.State{Envelope: s.next(), Online: online, Reason: reason, Software: clip(s.m.o.Box.Report().Software, 100)}
	data, err := mqttwire.Encode(mqttwire.MaxPayload, st)
	if err != nil {
		return err
	}
	return s.publish("state", 1, true, data)
}

// NewCommandID makes an id for a command that a local face gives.
func NewCommandID() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
