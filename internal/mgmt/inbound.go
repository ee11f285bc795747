package mgmt

import (
	"context"

	"boxd/internal/mqttwire"
)

func (s *session) receive(ctx context.Context, msg inbound) error {
	t, err := mqttwire.ParseTopic(msg.topic)
	if err != nil || t.Fleet != s.fleet || t.Box != "" && t.Box != s.box {
		s.m.o.Log.Warn("message on a foreign topic", "topic", msg.topic)
		return nil
	}
	if len(msg.payload) == 0 {
		return nil // a cleared retained message
	}
	switch t.Kind {
	case mqttwire.KindDesired:
		target := "box"
		if t.Group != "" {
			target = "group:" + t.Group
		}
		return s.m.desired.arrived(ctx, target, msg.payload)
	case mqttwire.KindCommand:
		s.command(t.ID, msg.payload)
	case mqttwire.KindEventAck:
		var ack mqttwire.EventAck
		if err := mqttwire.Decode(msg.payload, mqttwire.MaxPayload, &ack); err != nil || ack.Epoch != s.m.epoch {
			s.m.o.Log.Warn("acknowledgement not understood", "topic", msg.topic, "err", err)
			return nil
		}
		if _, flying := s.sent[ack.Evt]; flying { // what was never sent cannot be acknowledged
			delete(s.sent, ack.Evt)
			s.acked = append(s.acked, ack.Evt)
		}
	}
	return nil
}

func (s *session) command(id string, raw []byte) {
	msg, err := s.m.o.Verify(raw)
	switch {
	case err != nil:
		s.m.o.Log.Warn("command refused", "command", id, "err", err)
	case msg.Kind != "command" || msg.ID != id || targetOf(msg.To) != "box" || !mqttwire.ValidCommandID(id):
		s.m.o.Log.Warn("command on a wrong topic", "command", id, "signed_id", msg.ID, "to", msg.To, "kind", msg.Kind)
	default:
		s.m.cmds.offer(msg)
	}
}
