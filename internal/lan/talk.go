package lan

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/time/rate"

	"boxd/internal/asset"
)

// read takes messages until the connection ends or has been silent for too long.
func (k *link) read(ctx context.Context) error {
	limit := rate.NewLimiter(messagesPerSec, messagesPerSec)
	for {
		m, err := readMessage(k.conn, maxFrame)
		if errors.Is(err, errMessage) {
			k.lan.stats.malformed.Add(1)
		}
		if err != nil {
			return err
		}
		if m.Kind == kindBye {
			return io.EOF
		}
		k.handle(m)
		if err := limit.Wait(ctx); err != nil {
			return err
		}
	}
}

func (k *link) handle(m message) {
	l := k.lan
	l.mu.Lock()
	defer l.mu.Unlock()
	k.seen = l.opt.now()
	switch m.Kind {
	case kindPing:
		if len(k.pongs) < 4 {
			k.pongs = append(k.pongs, m.N)
		}
		k.poke()
	case kindPong:
		if m.N == k.pings {
			sample := k.seen.Sub(k.pinged)
			if k.rtt == 0 {
				k.rtt = sample
			}
			k.rtt += (sample - k.rtt) / 8
		}
	case kindState:
		k.take(m.State)
		if l.links[k.id] == k {
			l.refresh()
		}
	}
	k.extend()
}

// take replaces what is known of the neighbour. Its slices go to callers: they are made anew each time.
func (k *link) take(st *wireState) {
	k.state = *st
	k.public = make([]Want, len(st.Wants))
	k.wants = make(map[asset.ID]wireWant, len(st.Wants))
	for i, w := range st.Wants {
		k.wants[w.ID] = w
		k.public[i] = Want{
			ID: w.ID, InFlight: w.InFlight, Have: w.Have, NoWAN: w.NoWAN, WANBytes: w.WANBytes, WANRate: w.WANRate,
			Stalled: w.Yields, Acting: w.Acting,
		}
	}
	k.holds = make(map[asset.ID]bool, len(st.Holds))
	for _, id := range st.Holds {
		k.holds[id] = true
	}
	k.demand = make([]Demand, len(st.Demand))
	for i, d := range st.Demand {
		k.demand[i] = Demand(d)
	}
	k.vetoes = make(map[veto]bool, len(st.Vetoes))
	for _, v := range st.Vetoes {
		k.vetoes[veto{v.ID, v.Box}] = true
	}
}

// extend moves the moment at which silence means death.
func (k *link) extend() {
	k.idle = len(k.wants) == 0 && len(k.lan.self.Wants) == 0
	wait := silence
	if k.idle {
		wait = idleSilence
	}
	if !k.closed {
		_ = k.conn.SetReadDeadline(k.lan.opt.now().Add(wait))
	}
}

// write sends states, pings and pongs until the connection ends, then says goodbye if this box is the one that goes.
func (k *link) write(ctx context.Context) {
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()
	for {
		select {
		case <-k.done:
			return
		case <-ctx.Done():
			_ = k.conn.SetDeadline(k.lan.opt.now().Add(byeTimeout))
			if frame, err := encodeFrame(message{Kind: kindBye}); err == nil {
				_, _ = k.conn.Write(frame) // a courtesy: silence says the same a little later
			}
			k.end()
			return
		case <-k.wakeup:
		case <-timer.C:
		}
		out, next := k.outgoing()
		if len(out) > 0 {
			_ = k.conn.SetWriteDeadline(k.lan.opt.now().Add(writeTimeout))
			if _, err := k.conn.Write(out); err != nil {
				k.end() // the reader notices
				<-k.done
				return
			}
		}
		timer.Reset(next)
		if len(out) > 0 {
			select { // states that follow each other closely become one
			case <-time.After(coalesce):
			case <-k.done:
			case <-ctx.Done():
			}
		}
	}
}

// outgoing collects what is due now and says when to look again at the latest.
func (k *link) outgoing() (out []byte, next time.Duration) {
	l := k.lan
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.opt.now()
	period := heartbeat
	idle := len(k.wants) == 0 && len(l.self.Wants) == 0
	if idle {
		period = idleHeartbeat
	}
	if idle != k.idle {
		k.extend() // both ends change their times when they see it, and neither is dead for having seen it first
	}
	due := now.Sub(k.pinged) >= period
	if k.sent < l.urgent || due && k.sent < l.seq {
		out = append(out, l.frame...)
		k.sent = l.seq
	}
	for _, n := range k.pongs {
		out = appendFrame(out, message{Kind: kindPong, N: n})
	}
	k.pongs = k.pongs[:0]
	if due {
		k.pings++
		k.pinged = now
		out = appendFrame(out, message{Kind: kindPing, N: k.pings})
	}
	return out, period - now.Sub(k.pinged)
}

func appendFrame(out []byte, m message) []byte {
	if frame, err := encodeFrame(m); err == nil {
		out = append(out, frame...)
	}
	return out
}
