package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// How full the store may be, as shares of what it may hold.
const (
	storeHigh = 0.8 // somebody should look: the manager is not ready, and tells
	storeFull = 0.9 // retained messages, which are hints, are given up
)

const (
	levelPeriod = 15 * time.Second
	levelPause  = 10 * time.Minute // between two times that room is made
)

// StoreLevel is how full the fullest of the broker's stores is. Zero: not known yet.
type StoreLevel struct {
	Server    string
	Used, Max int64 // bytes
}

// High is true when boxes will soon not be heard any more.
func (l StoreLevel) High() bool { return l.over(storeHigh) }

func (l StoreLevel) over(share float64) bool {
	return l.Max > 0 && float64(l.Used) >= share*float64(l.Max)
}

// Level is what the last look at the stores has found.
func (b *Bus) Level() StoreLevel {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.level
}

// watchLevel looks at the stores until ctx ends.
func (b *Bus) watchLevel(ctx context.Context, nc *nats.Conn) {
	tick := time.NewTicker(levelPeriod)
	defer tick.Stop()
	var made time.Time
	for {
		level, err := b.LookAtStores()
		switch {
		case err != nil:
			b.o.Log.Info("the broker's stores were not looked at", "err", err)
		case level.over(storeFull) && time.Since(made) > levelPause:
			made = time.Now()
			if err := b.giveUpRetained(ctx, nc, level); err != nil {
				b.o.Log.Warn("no room made in the broker's store", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// LookAtStores asks every server how full its store is, and remembers the fullest. A store on a disk with less room than it
// may take can hold only that.
func (b *Bus) LookAtStores() (StoreLevel, error) {
	var most StoreLevel
	err := b.askServers("JSZ", nil, func(_ *nats.Conn, server string, data json.RawMessage) {
		var js struct {
			Storage int64
			Config  struct {
				MaxStorage int64 `json:"max_storage"`
			}
		}
		if json.Unmarshal(data, &js) != nil || js.Config.MaxStorage <= 0 {
			return
		}
		l := StoreLevel{server, js.Storage, js.Config.MaxStorage}
		if b.o.Free != nil {
			l.Max = min(l.Max, l.Used+b.o.Free())
		}
		if most.Max == 0 || float64(l.Used)*float64(most.Max) > float64(most.Used)*float64(l.Max) {
			most = l
		}
	})
	if err != nil {
		return most, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.level = most
	return most, nil
}

// askServers sends a request to every server of the cluster and hands on what each says of itself.
func (b *Bus) askServers(what string, req []byte, each func(sys *nats.Conn, server string, data json.RawMessage)) error {
	b.mu.Lock()
	sys := b.sys
	b.mu.Unlock()
	if sys == nil {
		return errNotConnected
	}
	inbox := nats.NewInbox()
	sub, err := sys.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("ask the brokers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sys.PublishRequest("$SYS.REQ.SERVER.PING."+what, inbox, req); err != nil {
		return fmt.Errorf("ask the brokers: %w", err)
	}
	for wait := 2 * time.Second; ; wait = 300 * time.Millisecond {
		m, err := sub.NextMsg(wait)
		if err != nil {
			return nil // every server that is there has answered
		}
		var reply struct {
			Server struct{ ID string }
			Data   json.RawMessage
		}
		if json.Unmarshal(m.Data, &reply) == nil {
			each(sys, reply.Server.ID, reply.Data)
		}
		if b.o.Alone {
			return nil
		}
	}
}
