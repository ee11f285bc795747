package mqttwire

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
)

func TestTopicsRoundTrip(t *testing.T) {
	for topic, want := range map[string]Topic{
		BoxTopic("f", "b", "state"):             {Fleet: "f", Box: "b", Kind: KindState},
		BoxTopic("f", "b", "reported"):          {Fleet: "f", Box: "b", Kind: KindReported},
		BoxTopic("f", "b", "tele"):              {Fleet: "f", Box: "b", Kind: KindTele},
		BoxTopic("f", "b", "desired"):           {Fleet: "f", Box: "b", Kind: KindDesired},
		BoxTopic("f", "b", EventTail(7)):        {Fleet: "f", Box: "b", Kind: KindEvent, ID: "7"},
		BoxTopic("f", "b", EventAckTail(7)):     {Fleet: "f", Box: "b", Kind: KindEventAck, ID: "7"},
		BoxTopic("f", "b", CommandTail("x-1")):  {Fleet: "f", Box: "b", Kind: KindCommand, ID: "x-1"},
		BoxTopic("f", "b", CommandAckTail("x")): {Fleet: "f", Box: "b", Kind: KindCmdAck, ID: "x"},
		GroupDesired("f", "g"):                  {Fleet: "f", Group: "g", Kind: KindDesired},
	} {
		got, err := ParseTopic(topic)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", topic, got, err)
		}
	}
}

func TestForeignTopicsAreRefused(t *testing.T) {
	for _, topic := range []string{
		"", "boxd/v1", "boxd/v2/f/b/state", "boxd/v1/f/b", "boxd/v1/f/+/state", "boxd/v1/f/b/state/x", "boxd/v1/f/b/evt/0",
		"boxd/v1/f/b/evt/01",
		"boxd/v1/f/b/evt/x", "boxd/v1/f/b/evt/-1", "boxd/v1/f/b/cmd/", "boxd/v1/f/b/cmd/a/b", "boxd/v1/f/group/desired",
		"boxd/v1/f/group/g/state",
		"boxd/v1/f/group/g/cmd/x", "boxd/v1/F/b/state", "boxd/v1/f/b b/state", "boxd/v1/f/" + strings.Repeat("a", 41) + "/state",
	} {
		if got, err := ParseTopic(topic); err == nil {
			t.Errorf("%q: %+v", topic, got)
		}
	}
	if ValidBox("group") {
		t.Error("a box may be called group: its topics would be a group's")
	}
}

func TestANewerVersionIsLeftAlone(t *testing.T) {
	var s State
	err := Decode([]byte(`{"v":2,"online":{"anything":"goes"}}`), MaxPayload, &s)
	if !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
	if err := Decode(
		[]byte(`{"v":1,"epoch":"abcdefgh","sid":1,"seq":1,"ts":"2026-01-01T00:00:00Z","mono_ms":1,"online":true,"new_field":1}`),
		MaxPayload,
		&s,
	); err != nil {
		t.Errorf("a field of a later minor version: %v", err)
	}
	if _, err := DecodeDesired([]byte(`{"v":1,"version":1,"config":{"wan_down":1,"new_limit":2}}`)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a wish that is only half understood was taken: %v", err)
	}
}

func TestCapsHold(t *testing.T) {
	big := `{"v":1,"x":"` + strings.Repeat("a", MaxPayload) + `"}`
	var s State
	if err := Decode([]byte(big), MaxPayload, &s); !errors.Is(err, ErrTooBig) {
		t.Errorf("decode: %v", err)
	}
	e := Envelope{V: 1, Epoch: "abcdefgh", SID: 1, Seq: 1, TS: time.Unix(0, 0)}
	if _, err := Encode(50, &State{Envelope: e, Online: true}); !errors.Is(err, ErrTooBig) {
		t.Errorf("encode: %v", err)
	}
}

func TestEnvelopesAreOrderedWithinAnEpoch(t *testing.T) {
	e := func(epoch string, sid, seq uint64) Envelope { return Envelope{Epoch: epoch, SID: sid, Seq: seq} }
	for _, c := range []struct {
		a, b Envelope
		want bool
	}{
		{e("x", 1, 2), e("x", 1, 1), true},
		{e("x", 1, 1), e("x", 1, 1), false},
		{e("x", 2, 0), e("x", 1, 9), true},
		{e("x", 1, 9), e("x", 2, 0), false},
		{e("y", 1, 1), e("x", 9, 9), true},
	} {
		if got := c.a.Newer(c.b); got != c.want {
			t.Errorf("%+v newer than %+v: %t", c.a, c.b, got)
		}
	}
}

func TestHoldingsDigestIgnoresOrder(t *testing.T) {
	a, b := asset.ID{1}, asset.ID{2}
	if HoldingsDigest([]asset.ID{a, b}) != HoldingsDigest([]asset.ID{b, a}) ||
		HoldingsDigest([]asset.ID{a}) == HoldingsDigest([]asset.ID{b}) {
		t.Error("digest depends on the order, or not on the content")
	}
	if HoldingsDigest(nil) != "" {
		t.Error("the digest of nothing is not empty")
	}
}

func TestLimitsInConfigAreNotNegative(t *testing.T) {
	for _, doc := range []string{
		`{"v":1,"version":0}`, `{"v":1,"version":1,"config":{"wan_down":-1}}`, `{"v":1,"version":1,"config":{"report_seconds":1}}`,
		`{"v":1,"version":1,"config":{"peers":-2}}`, `{"v":1,"version":1,"catalog_version":-1}`, `[]`, `{"v":1,"version":1} x`,
	} {
		if d, err := DecodeDesired([]byte(doc)); err == nil {
			t.Errorf("%s: taken as %+v", doc, d)
		}
	}
}

// FuzzPayloads feeds every parser of both sides: none may panic, and what is accepted can be written and read again.
func FuzzPayloads(f *testing.F) {
	examples, err := filepath.Glob("testdata/examples/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range examples {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, into := range payloads() {
			if Decode(data, MaxDesired, into) != nil {
				continue
			}
			again, err := Encode(4*MaxDesired, into)
			if err != nil {
				t.Fatalf("%T: accepted and cannot be written: %v", into, err)
			}
			twin, ok := reflect.New(reflect.TypeOf(into).Elem()).Interface().(Checker)
			if !ok {
				t.Fatalf("%T is no Checker", into)
			}
			if err := Decode(again, 4*MaxDesired, twin); err != nil {
				t.Fatalf("%T: written and cannot be read: %v\n%s", into, err, again)
			}
		}
		if d, err := DecodeDesired(data); err == nil && d.Version < 1 {
			t.Fatalf("version %d", d.Version)
		}
		if c, err := DecodeCommand(data); err == nil && c.Name == "" {
			t.Fatal("a command without a name")
		}
	})
}

func payloads() []Checker {
	return []Checker{
		&State{}, &Reported{}, &Tele{}, &Event{}, &EventAck{}, &CommandAck{}, &Desired{}, &Command{}, &HoldingsList{},
	}
}

// FuzzTopic: what is accepted comes out as it went in.
func FuzzTopic(f *testing.F) {
	for _, s := range []string{"boxd/v1/f/b/state", "boxd/v1/f/group/g/desired", "boxd/v1/f/b/evt/9/ack", "boxd/v1/f/b/cmd/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseTopic(s)
		if err != nil {
			return
		}
		tail := map[Kind]string{
			KindEvent: "evt/" + p.ID, KindEventAck: "evt/" + p.ID + "/ack", KindCommand: "cmd/" + p.ID, KindCmdAck: "cmd/" + p.ID + "/ack",
		}[p.Kind]
		if tail == "" {
			tail = string(p.Kind)
		}
		again := BoxTopic(p.Fleet, p.Box, tail)
		if p.Group != "" {
			again = GroupDesired(p.Fleet, p.Group)
		}
		if again != s {
			t.Fatalf("%q came out as %q", s, again)
		}
	})
}

func TestExamplesAreWhatTheCodeReads(t *testing.T) {
	for name, into := range map[string]Checker{
		"state": &State{}, "state-will": &State{}, "reported": &Reported{}, "tele": &Tele{}, "event-arrived": &Event{},
		"event-erased": &Event{},
		"event-ack":    &EventAck{}, "command-ack-accepted": &CommandAck{}, "command-ack-done": &CommandAck{},
		"command-ack-failed": &CommandAck{},
		"desired":            &Desired{}, "command": &Command{}, "holdings": &HoldingsList{},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", "examples", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(data, MaxDesired, into); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// Nothing in the example may be unknown to the code.
		out, err := json.Marshal(into)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := errors.Join(json.Unmarshal(data, &want), json.Unmarshal(out, &got)); err != nil {
			t.Fatal(err)
		}
		if lost := missing("", want, got); lost != "" {
			t.Errorf("%s: %s is not known to the code", name, lost)
		}
	}
}

// missing names the first field of want that got does not have.
func missing(at string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return at
		}
		for k, v := range w {
			if _, ok := g[k]; !ok {
				return at + "." + k
			}
			if m := missing(at+"."+k, v, g[k]); m != "" {
				return m
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return at
		}
		for i := range w {
			if m := missing(at+"[]", w[i], g[i]); m != "" {
				return m
			}
		}
	}
	return ""
}
