package broker

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The broker keeps a retained message for each topic for ever, and tells no rule whether a message is to be retained. A box
// retains its state and its report and nothing else; proofs and answers have topics without number, and a box that retained
// them would fill the store for all.
const (
	retainedStream = "$MQTT_rmsgs"
	retainedPrefix = "$MQTT.rmsgs."
)

// watchRetained tells of boxes that retain what they may not, and clears it.
func (b *Bus) watchRetained(ctx context.Context, nc *nats.Conn) (stop func(), err error) {
	clear := make(chan string, 4096)
	var subs []*nats.Subscription
	stop = func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}
	for _, kind := range []string{"evt", "cmd"} {
		sub, err := nc.Subscribe(retainedPrefix+"boxd.v1."+b.o.Fleet+".*."+kind+".>", func(m *nats.Msg) {
			if len(m.Data) == 0 {
				return // clears one: what comes of the clearing below too
			}
			topic := strings.TrimPrefix(m.Subject, retainedPrefix)
			if level := strings.Split(topic, "."); b.o.Abuse != nil {
				b.o.Abuse(level[3])
			}
			select {
			case clear <- topic:
			default: // more than can be cleared now goes when the store is next looked at
			}
		})
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch retained messages: %w", err)
		}
		subs = append(subs, sub)
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case topic := <-clear:
				if err := b.Retain(strings.ReplaceAll(topic, ".", "/"), nil); err != nil {
					b.o.Log.Warn("retained message not cleared", "topic", topic, "err", err)
				}
			}
		}
	}()
	return stop, nil
}

// makeRoom gives up all retained messages when the store is nearly full: boxes and fleetd retain theirs again, and without
// room nobody could connect.
func (b *Bus) makeRoom(ctx context.Context, nc *nats.Conn) error {
	level, err := b.LookAtStores()
	if err != nil || !level.High() {
		return err
	}
	return b.giveUpRetained(ctx, nc, level)
}

func (b *Bus) giveUpRetained(ctx context.Context, nc *nats.Conn, level StoreLevel) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	s, err := js.Stream(ctx, retainedStream)
	if err != nil {
		return fmt.Errorf("look at retained messages: %w", err)
	}
	b.o.Log.Warn("the broker's store is nearly full: retained messages are given up", "bytes", level.Used, "of", level.Max)
	if err := s.Purge(ctx); err != nil {
		return fmt.Errorf("give up retained messages: %w", err)
	}
	return nil
}
