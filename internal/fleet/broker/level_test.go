package broker_test

import (
	"context"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// A store that is nearly full is told, and a manager that starts with one makes room in it: retained messages are hints.
func TestANearlyFullStoreIsToldAndMadeRoomIn(t *testing.T) {
	r := newRig(t)
	c, err := attacker(r, "box-1", r.ca.box(t, "box-1", "kitchen"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect(0)
	const topic = "boxd/v1/f1/box-1/state"
	if tok := c.Publish(topic, 1, true, make([]byte, 4000)); !tok.WaitTimeout(20*time.Second) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	look := func(high bool) {
		t.Helper()
		waitFor(t, "the level is right", func() bool {
			l, err := r.bus.LookAtStores()
			return err == nil && l.High() == high && r.bus.Level() == l
		})
	}
	look(false)
	r.free.Store(0)
	look(true)

	// The level is told of the last look: a new bus looks before all else.
	second := r.newBus(logTo(t))
	ctx, cancel := context.WithCancel(t.Context())
	done, up := make(chan error, 1), make(chan struct{})
	go func() { done <- second.Run(ctx, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	<-done
	if !second.Level().High() {
		t.Error("it did not look before all else")
	}
	waitFor(t, "nothing is retained any more", func() bool {
		again, err := attacker(r, "box-1", r.ca.box(t, "box-1", "kitchen"), "")
		if err != nil {
			return false
		}
		defer again.Disconnect(0)
		got := make(chan string, 10)
		hear := func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() }
		again.Subscribe(topic, 0, hear).WaitTimeout(5 * time.Second)
		again.Subscribe(topic[:len(topic)-5]+"cmd/+", 0, hear).WaitTimeout(5 * time.Second)
		if r.bus.Send(topic[:len(topic)-5]+"cmd/last", []byte("x")) != nil {
			return false
		}
		return <-got != topic
	})
	r.free.Store(1 << 40)
	look(false)
}
