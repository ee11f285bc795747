package web

import (
	"context"
	"encoding/json"

	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
)

// HomeBox is another box of a box's home, in the form of the box's own page: the same picture is made of it.
type HomeBox struct {
	ID       string `json:"id"`
	Holds    int    `json:"holds"`
	Courier  int    `json:"courier_of"`
	Health   string `json:"health"`         // empty: none
	WANGot   int64  `json:"wan_got_bytes"`  // over the access line
	Received int64  `json:"received_bytes"` // by the box from this one, over the LAN
	Sent     int64  `json:"sent_bytes"`     // by the box to this one
	Got      []Got  `json:"got"`            // what this one says that it got, by box
}

// Got is what came from a box over the LAN, in bytes.
type Got struct {
	ID    string `json:"id"`
	Bytes int64  `json:"bytes"`
}

// home is what the boxes of a home told, put together.
func (v *View) home(ctx context.Context, r *mqttwire.Reported) ([]HomeBox, error) {
	ids := make([]string, len(r.Home))
	for i, h := range r.Home {
		ids[i] = h.Box
	}
	list, err := v.registry().SomeBoxes(ctx, ids)
	if err != nil {
		return nil, err
	}
	known := map[string]*registry.Box{}
	for i := range list {
		known[list[i].ID] = &list[i]
	}
	out := []HomeBox{}
	for _, h := range r.Home {
		n := HomeBox{ID: h.Box, Received: h.Got, Sent: h.Gave, Got: []Got{}}
		if b := known[h.Box]; b != nil {
			n.Holds, n.WANGot = b.Holdings, b.Peer+b.Origin
			n.tell(b.Reported)
		}
		out = append(out, n)
	}
	return out, nil
}

// tell adds what the box itself has reported.
func (n *HomeBox) tell(reported []byte) {
	var r mqttwire.Reported
	if len(reported) == 0 || json.Unmarshal(reported, &r) != nil {
		return
	}
	n.Courier = couriers(&r)
	for _, w := range r.Health {
		if n.Health == "" || w.Severity == "critical" {
			n.Health = w.Severity
		}
	}
	for _, h := range r.Home {
		n.Got = append(n.Got, Got{h.Box, h.Got})
	}
}

func couriers(r *mqttwire.Reported) int {
	n := 0
	for _, a := range r.Assets {
		if a.Role == "courier" {
			n++
		}
	}
	return n
}
