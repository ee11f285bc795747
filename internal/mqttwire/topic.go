package mqttwire

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Prefix heads every topic; the number is the protocol's major version.
const Prefix = "boxd/v1"

// groupLevel takes the place of a box name in group topics, so no box may be called that.
const groupLevel = "group"

// MaxName bounds fleet, box and group names, in bytes.
const MaxName = 40

// ValidName reports whether s may be a fleet, box or group name: 1 to 40 of a–z, 0–9 and '-'.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ValidBox reports whether s may be a box name: a valid name that is not the word which group topics use.
func ValidBox(s string) bool { return ValidName(s) && s != groupLevel }

func nameLike(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// Kind is the part of a topic after the box or group.
type Kind string

// The kinds of topic.
const (
	KindState    Kind = "state"    // up, retained, and the will
	KindReported Kind = "reported" // up, retained
	KindTele     Kind = "tele"     // up, QoS 0
	KindEvent    Kind = "evt"      // up: evt/<n>
	KindEventAck Kind = "evt-ack"  // down: evt/<n>/ack
	KindDesired  Kind = "desired"  // down, retained; of a box or of a group
	KindCommand  Kind = "cmd"      // down: cmd/<id>
	KindCmdAck   Kind = "cmd-ack"  // up: cmd/<id>/ack
)

// Topic is a parsed topic.
type Topic struct {
	Fleet string
	Box   string // empty for a group's topic
	Group string // empty for a box's topic
	Kind  Kind
	ID    string // the event's number or the command's id
}

// BoxTopic is the topic of a box; tail such as "state", "evt/7" or "cmd/x/ack".
func BoxTopic(fleet, box, tail string) string { return Prefix + "/" + fleet + "/" + box + "/" + tail }

// GroupDesired is the topic of a group's desired state.
func GroupDesired(fleet, group string) string {
	return Prefix + "/" + fleet + "/" + groupLevel + "/" + group + "/desired"
}

// EventTail and EventAckTail are the tails of an event's topics; n is its outbox number.
func EventTail(n uint64) string { return "evt/" + strconv.FormatUint(n, 10) }

// EventAckTail is where the fleet manager acknowledges outbox number n.
func EventAckTail(n uint64) string { return EventTail(n) + "/ack" }

// CommandTail is where a command arrives, and CommandAckTail where its answers go.
func CommandTail(id string) string { return "cmd/" + id }

// CommandAckTail is where a box answers a command.
func CommandAckTail(id string) string { return "cmd/" + id + "/ack" }

// ParseTopic reads a topic of this protocol.
func ParseTopic(s string) (Topic, error) {
	bad := func() (Topic, error) { return Topic{}, fmt.Errorf("%w: topic %.120q", ErrInvalid, s) }
	if len(s) > 300 {
		return bad()
	}
	rest, ok := strings.CutPrefix(s, Prefix+"/")
	if !ok {
		return bad()
	}
	p := strings.Split(rest, "/")
	if len(p) < 3 || !ValidName(p[0]) || !ValidName(p[1]) {
		return bad()
	}
	t := Topic{Fleet: p[0], Box: p[1]}
	if p[1] == groupLevel {
		if len(p) != 4 || p[3] != "desired" || !ValidName(p[2]) {
			return bad()
		}
		return Topic{Fleet: p[0], Group: p[2], Kind: KindDesired}, nil
	}
	switch {
	case len(p) == 3 && (p[2] == "state" || p[2] == "reported" || p[2] == "tele" || p[2] == "desired"):
		t.Kind = Kind(p[2])
		return t, nil
	case len(p) == 4 || len(p) == 5 && p[4] == "ack":
	default:
		return bad()
	}
	t.ID = p[3]
	up := len(p) == 4
	switch p[2] {
	case "evt":
		if n, err := strconv.ParseUint(t.ID, 10, 64); err != nil || n == 0 || t.ID[0] == '0' {
			return bad()
		}
		t.Kind = pick(up, KindEvent, KindEventAck)
	case "cmd":
		if !ValidCommandID(t.ID) {
			return bad()
		}
		t.Kind = pick(up, KindCommand, KindCmdAck)
	default:
		return bad()
	}
	return t, nil
}

// ValidCommandID reports whether s may be a command's id: 1 to 64 letters, digits, '-' and '_'.
func ValidCommandID(s string) bool { return len(s) <= 64 && nameLike(s) }

func pick(c bool, a, b Kind) Kind {
	if c {
		return a
	}
	return b
}

// Message is one message with its topic parsed.
type Message struct {
	Topic    Topic
	Payload  []byte
	Received time.Time
}
