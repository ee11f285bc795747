package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"boxd/internal/mqttwire"
)

// simBox is one box with the smallest MQTT 3.1.1 client that does what ours does: will, subscriptions at QoS 0, reports
// at QoS 1. One goroutine each, so that thousands fit beside the manager on one machine.
type simBox struct {
	id    string
	cfg   *tls.Config
	conn  net.Conn
	sid   uint64
	acks  chan struct{} // one for each PUBACK
	alive atomic.Bool
}

// swarm is all the boxes.
type swarm struct {
	t     *target
	n     int
	boxes []*simBox

	again atomic.Int64 // connects that failed and were tried again
	fault atomic.Value // why, the last one
	wish  atomic.Bool  // a wish is on its way
	wishN chan time.Time
	stop  atomic.Bool
	group string
	done  sync.WaitGroup
}

func newSwarm(t *target, n int) (*swarm, error) {
	s := &swarm{t: t, n: n, group: "default", wishN: make(chan time.Time, 2*n)}
	for i := range n {
		cfg, err := t.boxTLS(fmt.Sprintf("box-%05d", i), s.group)
		if err != nil {
			return nil, err
		}
		s.boxes = append(s.boxes, &simBox{id: fmt.Sprintf("box-%05d", i), cfg: cfg, acks: make(chan struct{}, 4)})
	}
	return s, nil
}

func (s *swarm) close() {
	s.stop.Store(true)
	for _, b := range s.boxes {
		if b.conn != nil {
			_ = b.conn.Close()
		}
	}
	s.done.Wait()
}

func (s *swarm) connected() int {
	n := 0
	for _, b := range s.boxes {
		if b.alive.Load() {
			n++
		}
	}
	return n
}

// connectAll brings every box up, each after a random part of spread, trying again as boxes do.
func (s *swarm) connectAll(ctx context.Context, parallel int, spread time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, parallel)
	deadline := time.Now().Add(5 * time.Minute)
	for _, b := range s.boxes {
		g.Go(func() error {
			if spread > 0 {
				time.Sleep(rand.N(spread))
			}
			for attempt := 0; ; attempt++ {
				slots <- struct{}{}
				err := s.connect(ctx, b)
				<-slots
				if err == nil {
					return nil
				}
				if ctx.Err() != nil || time.Now().After(deadline) {
					return fmt.Errorf("connect %s: %w", b.id, err)
				}
				s.again.Add(1)
				s.fault.Store(err.Error())
				time.Sleep(rand.N(min(time.Second<<attempt, 10*time.Second)))
			}
		})
	}
	return g.Wait()
}

func (s *swarm) connect(ctx context.Context, b *simBox) error {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 20 * time.Second}, Config: b.cfg}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", s.t.addr)
	if err != nil {
		return err
	}
	b.sid++
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // a net.Conn that cannot is closed already
	base := "boxd/v1/" + s.t.fleet + "/" + b.id + "/"
	if _, err := conn.Write(connectPacket(b.id, base+"state", b.state(false))); err != nil {
		return errors.Join(err, conn.Close())
	}
	r := bufio.NewReaderSize(conn, 256)
	if _, body, err := readPacket(r); err != nil || len(body) != 2 || body[1] != 0 {
		return errors.Join(fmt.Errorf("connack %v: %w", body, err), conn.Close())
	}
	sub := subscribePacket(base+"desired", base+"cmd/+", base+"evt/+/ack", mqttwire.GroupDesired(s.t.fleet, s.group))
	// As a box does: its state, then its report, without which the manager would send it the wishes again and again.
	sub = append(sub, publishPacket(base+"state", b.state(true), 1, true, 1)...)
	sub = append(sub, publishPacket(base+"reported", b.report(2), 1, true, 2)...)
	if _, err := conn.Write(sub); err != nil {
		return errors.Join(err, conn.Close())
	}
	for acked := 0; acked < 3; { // SUBACK and PUBACKs, among retained messages
		kind, body, err := readPacket(r)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		switch kind >> 4 {
		case 9:
			for _, code := range body[2:] {
				if code == 0x80 {
					return errors.Join(errors.New("a subscription was refused"), conn.Close())
				}
			}
			acked++
		case 4:
			acked++
		}
	}
	_ = conn.SetDeadline(time.Time{})
	b.conn = conn
	b.alive.Store(true)
	s.done.Add(1)
	go s.read(b, conn, r)
	return nil
}

func (s *swarm) read(b *simBox, conn net.Conn, r *bufio.Reader) {
	defer s.done.Done()
	defer func() { _ = conn.Close() }()
	for {
		kind, body, err := readPacket(r)
		if err != nil {
			b.alive.Store(false)
			return
		}
		switch kind >> 4 {
		case 3:
			if s.wish.Load() && len(body) > 2 && strings.HasSuffix(string(body[2:2+binary.BigEndian.Uint16(body)]), "/desired") {
				s.wishN <- time.Now()
			}
		case 4:
			select {
			case b.acks <- struct{}{}:
			default:
			}
		}
	}
}

func (b *simBox) envelope(seq uint64) mqttwire.Envelope {
	return mqttwire.Envelope{V: 1, Epoch: "bench-" + b.id, SID: b.sid, Seq: seq, TS: time.Now().UTC()}
}

func (b *simBox) state(online bool) []byte {
	s := mqttwire.State{Envelope: b.envelope(0), Online: online, Software: "bench"}
	if online {
		s.Seq = 1
	}
	data, err := mqttwire.Encode(mqttwire.MaxPayload, &s)
	if err != nil {
		panic(err) // the form of this message is fixed
	}
	return data
}

// report is what a box with 14 assets, all whole, says of itself.
func (b *simBox) report(seq uint64) []byte {
	r := mqttwire.Reported{
		Envelope:       b.envelope(seq),
		Software:       "bench",
		ClockTrusted:   true,
		GroupVersions:  map[string]int64{"default": 1 << 40},
		CatalogVersion: 7,
		CatalogExpires: time.Now().UTC(),
		Traffic:        mqttwire.Traffic{LAN: int64(seq), Peer: 1 << 30, Origin: 1 << 20}, //nolint:gosec // a small count
		Disk:           mqttwire.Disk{Used: 1 << 34, Quota: 1 << 35, Free: 1 << 36, Reserve: 1 << 30},
		Household:      2,
		Holdings: mqttwire.Holdings{
			Count:  14,
			Bytes:  1 << 34,
			Digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		},
	}
	data, err := mqttwire.Encode(mqttwire.MaxPayload, &r)
	if err != nil {
		panic(err) // the form of this message is fixed
	}
	return data
}

// reports lets every box send its report again as soon as the last one is acknowledged, and returns how many were.
func (s *swarm) reports(ctx context.Context, span time.Duration) (int64, error) {
	var sent atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var wg sync.WaitGroup
	for _, b := range s.boxes {
		wg.Go(func() {
			topic := "boxd/v1/" + s.t.fleet + "/" + b.id + "/reported"
			for seq := uint64(3); ctx.Err() == nil && b.alive.Load(); seq++ {
				data := b.report(seq)
				if _, err := b.conn.Write(publishPacket(topic, data, 1, true, uint16(seq%65_000+1))); err != nil { //nolint:gosec // bounded
					return
				}
				select {
				case <-b.acks:
					sent.Add(1)
				case <-time.After(30 * time.Second):
					return
				}
			}
		})
	}
	wg.Wait()
	return sent.Load(), nil
}

func (s *swarm) expectWish() { s.wish.Store(true) }

// wishTimes collects when each box got the wish, in milliseconds since began.
func (s *swarm) wishTimes(ctx context.Context, began time.Time, limit time.Duration) []float64 {
	defer s.wish.Store(false)
	var times []float64
	timeout := time.After(limit)
	for len(times) < s.n {
		select {
		case at := <-s.wishN:
			times = append(times, float64(at.Sub(began).Microseconds())/1000)
		case <-timeout:
			return times
		case <-ctx.Done():
			return times
		}
	}
	return times
}

// The packets of MQTT 3.1.1 that are needed (sections 3.1, 3.3 and 3.8).

func packet(kind byte, body []byte) []byte {
	p := []byte{kind}
	for n := len(body); ; {
		b := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			p = append(p, b|0x80)
			continue
		}
		p = append(p, b)
		break
	}
	return append(p, body...)
}

func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) //nolint:gosec // short texts
}

func connectPacket(id, willTopic string, will []byte) []byte {
	body := text(nil, "MQTT")
	body = append(body, 4, 0x02|0x04|0x08|0x20) // clean session; will at QoS 1, retained
	body = binary.BigEndian.AppendUint16(body, 600)
	body = text(body, id)
	body = text(body, willTopic)
	return packet(0x10, text(body, string(will)))
}

func subscribePacket(topics ...string) []byte {
	body := []byte{0, 1}
	for _, t := range topics {
		body = append(text(body, t), 0)
	}
	return packet(0x82, body)
}

func publishPacket(topic string, payload []byte, qos byte, retain bool, id uint16) []byte {
	kind := byte(0x30) | qos<<1
	if retain {
		kind |= 1
	}
	body := text(nil, topic)
	if qos > 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	return packet(kind, append(body, payload...))
}

func readPacket(r *bufio.Reader) (byte, []byte, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, shift := 0, 0
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		n |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
		if shift += 7; shift > 21 {
			return 0, nil, errors.New("malformed length")
		}
	}
	body := make([]byte, n)
	_, err = io.ReadFull(r, body)
	return kind, body, err
}
