package broker_test

import (
	"testing"

	"boxd/internal/fleet/broker"
	"boxd/internal/mqttwire"
)

func TestKickClosesTheBoxesConnectionsAndNoOthers(t *testing.T) {
	r := newRig(t)
	a := startBox(t, r, "box-a", "living", newBox())
	b := startBox(t, r, "box-b", "living", newBox())
	for _, id := range []string{"box-a", "box-b"} {
		r.wait(t, "state of "+id, func(m broker.Msg) bool { return m.Topic.Box == id && m.Topic.Kind == mqttwire.KindState })
	}
	n, err := r.bus.Kick("box-a")
	if err != nil || n != 1 {
		t.Fatalf("kicked %d, %v", n, err)
	}
	waitFor(t, "a second session of box-a", func() bool { return a.Status().Sessions == 2 })
	if got := b.Status().Sessions; got != 1 {
		t.Errorf("box-b has had %d sessions", got)
	}
}
