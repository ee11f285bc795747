package broker_test

import (
	"fmt"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// A box cannot fill the broker's store with retained messages: topics that are not there are refused, and what it retains on
// the topics of proofs and answers is told and cleared.
func TestABoxCannotFillTheStore(t *testing.T) { bothWays(t, aBoxCannotFillTheStore) }

func aBoxCannotFillTheStore(t *testing.T, r *rig) {
	evil, err := attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Disconnect(0)
	payload := make([]byte, 8000)
	const base = "boxd/v1/f1/box-evil/"
	topics := []string{base + "x/1", base + "y", base + "state/more", base + "desired"}
	for i := range 40 {
		topics = append(topics, fmt.Sprintf("%sevt/%d", base, i+1), fmt.Sprintf("%scmd/c%d/ack", base, i))
	}
	for _, topic := range topics {
		evil.Publish(topic, 1, true, payload).WaitTimeout(5 * time.Second) // acknowledged or not
	}
	for range 80 {
		select {
		case box := <-r.abused:
			if box != "box-evil" {
				t.Fatalf("%q is accused", box)
			}
		case <-time.After(time.Minute):
			t.Fatal("nobody tells")
		}
	}
	// Whoever subscribes anew gets what is retained.
	waitFor(t, "the retained messages are gone", func() bool {
		c, err := attacker(r, "box-evil", r.ca.box(t, "box-evil", "kitchen"), "")
		if err != nil {
			return false
		}
		defer c.Disconnect(0)
		got := make(chan string, 200)
		hear := func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() }
		for _, topic := range []string{"+", "x/+", "state/+", "evt/+", "cmd/+/ack"} {
			c.Subscribe(base+topic, 0, hear).WaitTimeout(time.Minute)
		}
		c.Subscribe(base+"cmd/+", 0, func(mqtt.Client, mqtt.Message) { got <- "" }).WaitTimeout(time.Minute)
		if r.bus.Send(base+"cmd/last", []byte("x")) != nil { // comes after all that is retained
			return false
		}
		return <-got == ""
	})
	if n := len(r.abused); n != 0 {
		t.Errorf("told %d times more than there were retained messages", n)
	}
}
