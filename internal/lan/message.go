package lan

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// A frame is its length (4 bytes, big endian) and a JSON message. Unknown members are ignored, so that newer boxes
// may say more; everything known is checked.

const (
	protocolVersion = 1
	maxFrame        = 128 << 10 // bytes; a state with all lists full fits
	maxHello        = 512       // bytes of the first frame, from a box of which only the certificate is known
	maxBoxID        = 64
	maxVetoes       = 64
	worstClass      = 2
)

var errMessage = errors.New("bad household message")

// The kinds of messages.
const (
	kindHello = "hello"
	kindState = "state"
	kindPing  = "ping"
	kindPong  = "pong"
	kindBye   = "bye"
)

type message struct {
	Kind  string     `json:"kind"`
	V     int        `json:"v,omitempty"`     // hello: protocol version
	Port  int        `json:"port,omitempty"`  // hello: where the swarm listens
	Nonce string     `json:"nonce,omitempty"` // hello: of this run of the daemon
	N     uint64     `json:"n,omitempty"`     // ping and pong: which one
	State *wireState `json:"state,omitempty"`
}

type wireState struct {
	Class   int             `json:"class"`
	WAN     bool            `json:"wan"`
	WANRate int64           `json:"wan_rate,omitempty"`
	Wants   []wireWant      `json:"wants,omitempty"`
	Holds   []asset.ID      `json:"holds,omitempty"`
	Demand  []wireDemand    `json:"demand,omitempty"`
	Vetoes  []wireVeto      `json:"vetoes,omitempty"`
	Got     []Got           `json:"got,omitempty"`
	WANGot  int64           `json:"wan_got,omitempty"`
	Health  health.Severity `json:"health,omitempty"`
}

type wireWant struct {
	ID       asset.ID `json:"id"`
	Class    int      `json:"class"`
	InFlight bool     `json:"in_flight,omitempty"`
	Have     int      `json:"have,omitempty"`
	NoWAN    bool     `json:"no_wan,omitempty"`
	WANBytes int64    `json:"wan_bytes,omitempty"`
	WANRate  int64    `json:"wan_rate,omitempty"`
	Yields   bool     `json:"yields,omitempty"` // stalled or slow: courier only when nobody else can
	Acting   bool     `json:"acting,omitempty"`
}

type wireDemand struct {
	ID    asset.ID `json:"id"`
	First int      `json:"first"`
	Last  int      `json:"last"`
	Soon  bool     `json:"soon,omitempty"`
}

// wireVeto is a vote: this box has not seen that courier move.
type wireVeto struct {
	ID  asset.ID `json:"id"`
	Box string   `json:"box"`
}

func encodeFrame(m message) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d", m.Kind, len(body), maxFrame)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil
}

// readMessage reads one frame of at most limit bytes. The buffer grows with what arrives, not with what is claimed.
func readMessage(r io.Reader, limit int) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || int64(n) > int64(limit) {
		return message{}, fmt.Errorf("%w: frame of %d bytes, at most %d", errMessage, n, limit)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n)); err != nil {
		return message{}, err
	}
	return parseMessage(body.Bytes())
}

func parseMessage(b []byte) (message, error) {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	if err := m.check(); err != nil {
		return message{}, fmt.Errorf("%w: %s: %w", errMessage, m.Kind, err)
	}
	return m, nil
}

func (m message) check() error {
	switch m.Kind {
	case kindHello:
		switch {
		case m.V < 1:
			return fmt.Errorf("version %d", m.V)
		case m.Port < 1 || m.Port > math.MaxUint16:
			return fmt.Errorf("port %d", m.Port)
		case len(m.Nonce) != 16:
			return fmt.Errorf("nonce of %d characters", len(m.Nonce))
		}
		return nil
	case kindState:
		if m.State == nil {
			return errors.New("empty")
		}
		return m.State.check()
	case kindPing, kindPong, kindBye:
		return nil
	default:
		return nil // of a newer protocol: readers skip it
	}
}

func (s *wireState) check() error {
	switch {
	case s.Class < 0 || s.Class > worstClass:
		return fmt.Errorf("class %d", s.Class)
	case s.Health != "" && s.Health != health.Info && s.Health != health.Warn && s.Health != health.Critical:
		return fmt.Errorf("health of %d characters", len(s.Health))
	case s.WANRate < 0 || s.WANGot < 0:
		return fmt.Errorf("rate %d, got %d", s.WANRate, s.WANGot)
	case len(s.Wants) > MaxWants, len(s.Holds) > MaxHolds, len(s.Demand) > MaxDemand, len(s.Vetoes) > maxVetoes,
		len(s.Got) > MaxNeighbours:
		return fmt.Errorf("too long: %d wants, %d holds, %d demands, %d vetoes, got from %d",
			len(s.Wants), len(s.Holds), len(s.Demand), len(s.Vetoes), len(s.Got))
	}
	for _, g := range s.Got {
		if g.Box == "" || len(g.Box) > maxBoxID || g.Bytes < 0 {
			return fmt.Errorf("got %d bytes from a box id of %d characters", g.Bytes, len(g.Box))
		}
	}
	seen := make(map[asset.ID]bool, len(s.Wants))
	for _, w := range s.Wants {
		if w.Class < 0 || w.Class > worstClass || w.Have < 0 || w.WANBytes < 0 || w.WANRate < 0 {
			return fmt.Errorf("want %s out of range", w.ID)
		}
		if seen[w.ID] {
			return fmt.Errorf("want %s twice", w.ID)
		}
		seen[w.ID] = true
	}
	for _, d := range s.Demand {
		if d.First < 0 || d.Last < d.First {
			return fmt.Errorf("demand %s %d to %d", d.ID, d.First, d.Last)
		}
	}
	for _, v := range s.Vetoes {
		if v.Box == "" || len(v.Box) > maxBoxID {
			return fmt.Errorf("veto of a box id of %d characters", len(v.Box))
		}
	}
	return nil
}
