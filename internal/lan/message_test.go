package lan

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"boxd/internal/asset"
)

func TestFullStateFitsInAFrame(t *testing.T) {
	st := &wireState{Class: 2, WAN: true, WANRate: 1 << 40}
	for i := range MaxWants {
		st.Wants = append(st.Wants, wireWant{
			ID: testID(i), Class: 2, InFlight: true, Have: 1 << 20, NoWAN: true, WANBytes: 1 << 50, WANRate: 1 << 40,
			Yields: true, Acting: true,
		})
	}
	for i := range MaxHolds {
		st.Holds = append(st.Holds, testID(i))
	}
	for range MaxDemand {
		st.Demand = append(st.Demand, wireDemand{ID: testID(1), First: 1 << 20, Last: 1 << 20})
	}
	for range maxVetoes {
		st.Vetoes = append(st.Vetoes, wireVeto{ID: testID(1), Box: strings.Repeat("b", maxBoxID)})
	}
	for range MaxNeighbours {
		st.Got = append(st.Got, Got{Box: strings.Repeat("b", maxBoxID), Bytes: 1 << 50})
	}
	frame, err := encodeFrame(message{Kind: kindState, State: st})
	if err != nil {
		t.Fatal(err)
	}
	m, err := readMessage(bytes.NewReader(frame), maxFrame)
	if err != nil || len(m.State.Holds) != MaxHolds {
		t.Fatalf("full state: %v", err)
	}
}

func TestBadMessages(t *testing.T) {
	id := testID(1).String()
	for name, body := range map[string]string{
		"not JSON":         `{`,
		"got less than 0":  `{"kind":"state","state":{"got":[{"box":"a","bytes":-1}]}}`,
		"unknown health":   `{"kind":"state","state":{"health":"splendid"}}`,
		"got from nobody":  `{"kind":"state","state":{"got":[{"box":"","bytes":1}]}}`,
		"two values":       `{"kind":"ping"} {}`,
		"hello w/o port":   `{"kind":"hello","v":1,"nonce":"0123456789abcdef"}`,
		"hello v0":         `{"kind":"hello","port":1,"nonce":"0123456789abcdef"}`,
		"hello port":       `{"kind":"hello","v":1,"port":65536,"nonce":"0123456789abcdef"}`,
		"hello nonce":      `{"kind":"hello","v":1,"port":1,"nonce":"x"}`,
		"no state":         `{"kind":"state"}`,
		"class":            `{"kind":"state","state":{"class":3}}`,
		"negative class":   `{"kind":"state","state":{"class":-1}}`,
		"short id":         `{"kind":"state","state":{"class":0,"holds":["ab"]}}`,
		"want twice":       `{"kind":"state","state":{"wants":[{"id":"` + id + `"},{"id":"` + id + `"}]}}`,
		"negative have":    `{"kind":"state","state":{"wants":[{"id":"` + id + `","have":-1}]}}`,
		"huge number":      `{"kind":"state","state":{"wan_rate":1e99}}`,
		"demand backwards": `{"kind":"state","state":{"demand":[{"id":"` + id + `","first":2,"last":1}]}}`,
		"veto of nobody":   `{"kind":"state","state":{"vetoes":[{"id":"` + id + `"}]}}`,
		"too many vetoes": `{"kind":"state","state":{"vetoes":[` +
			strings.TrimSuffix(strings.Repeat(`{"id":"`+id+`","box":"b"},`, maxVetoes+1), ",") + `]}}`,
	} {
		if _, err := parseMessage([]byte(body)); !errors.Is(err, errMessage) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	newer := `{"kind":"state","state":{"class":1,"mood":"good"},"extra":[1]}`
	if m, err := parseMessage([]byte(newer)); err != nil || m.State.Class != 1 {
		t.Errorf("a newer box's state: %+v, %v", m, err)
	}
	if _, err := parseMessage([]byte(`{"kind":"of the future"}`)); err != nil {
		t.Errorf("a newer kind: %v", err)
	}
}

func TestFrameLengthIsNotBelieved(t *testing.T) {
	for _, n := range []uint32{0, maxFrame + 1, 1 << 31} {
		head := binary.BigEndian.AppendUint32(nil, n)
		if _, err := readMessage(bytes.NewReader(head), maxFrame); !errors.Is(err, errMessage) {
			t.Errorf("frame of %d: %v", n, err)
		}
	}
	short := append(binary.BigEndian.AppendUint32(nil, 100), "{}"...)
	if _, err := readMessage(bytes.NewReader(short), maxFrame); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut frame: %v", err)
	}
}

// FuzzMessage: whatever a neighbour sends is refused or is within all bounds, and says the same when told again.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"kind":"hello","v":1,"port":6880,"nonce":"0123456789abcdef"}`))
	f.Add([]byte(`{"kind":"state","state":{"class":1,"wan":true,"wants":[{"id":"` + testID(1).String() +
		`","class":1,"in_flight":true,"have":3}],"holds":["` + testID(2).String() + `"]}}`))
	f.Add([]byte(`{"kind":"state","state":{"demand":[{"id":"` + testID(1).String() + `","first":0,"last":9}],"vetoes":[{"id":"` +
		testID(1).String() + `","box":"box-2"}]}}`))
	f.Add([]byte(`{"kind":"ping","n":7}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		m, err := readMessage(bytes.NewReader(framed), maxFrame)
		if err != nil {
			return
		}
		if st := m.State; st != nil && m.Kind == kindState {
			if len(st.Wants) > MaxWants || len(st.Holds) > MaxHolds || len(st.Demand) > MaxDemand || len(st.Vetoes) > maxVetoes {
				t.Fatal("beyond the bounds")
			}
			new(link).take(st)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := parseMessage(again)
		if err != nil {
			t.Fatalf("own encoding refused: %v\n%s", err, again)
		}
		third, _ := json.Marshal(m2)
		if !bytes.Equal(again, third) {
			t.Fatalf("%s became %s", again, third)
		}
	})
}

func TestTellHoldsPutsWantedFirst(t *testing.T) {
	l := &LAN{links: map[string]*link{}}
	for i := range MaxHolds + 500 {
		var id asset.ID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		l.self.Holds = append(l.self.Holds, id)
	}
	last := l.self.Holds[MaxHolds+499]
	l.links["b"] = &link{wants: map[asset.ID]wireWant{last: {}}}
	told := l.tellHolds()
	if len(told) != MaxHolds || told[0] != last {
		t.Errorf("told %d, first %s", len(told), told[0])
	}
}
