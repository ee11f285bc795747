package ops

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

var (
	key, otherKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	public        = []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	now           = time.Now().UTC().Truncate(time.Second)
	me            = Box{Fleet: "test", ID: "box-a", Groups: []string{"north", "vip"}}
)

func sign(t testing.TB, to string, payload string) []byte {
	t.Helper()
	data, err := Sign(key, "test", "cmd", to, now.Add(time.Hour), json.RawMessage(payload))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestForMe(t *testing.T) {
	for _, to := range []string{"box-a", "group:north", "group:vip"} {
		const payload = `{"name":"pin","html":"<b>&</b>","line":"\u2028 ü"}`
		m, err := Verify(public, sign(t, to, payload), me, now)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if json.Unmarshal([]byte(payload), &want) != nil || json.Unmarshal(m.Payload, &got) != nil {
			t.Fatal("payload is not JSON")
		}
		if w, g := mustJSON(want), mustJSON(got); w != g || m.To != to || m.Kind != "cmd" || m.ID == "" {
			t.Fatalf("%+v, payload %s", m, m.Payload)
		}
	}
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// A broker or a database may change white space and the order of the outer fields.
func TestWhiteSpaceDoesNotMatter(t *testing.T) {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, sign(t, "box-a", `{"a": [1, 2]}`), "", "\t"); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(public, pretty.Bytes(), me, now); err != nil {
		t.Fatal(err)
	}
}

func TestNotForMe(t *testing.T) {
	good := sign(t, "box-a", `{}`)
	flipped := func(old, new string) []byte {
		b := bytes.Replace(good, []byte(old), []byte(new), 1)
		if bytes.Equal(b, good) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		self Box
		at   time.Time
		want error
	}{
		"another box":           {sign(t, "box-b", `{}`), me, now, ErrNotForMe},
		"another group":         {sign(t, "group:south", `{}`), me, now, ErrNotForMe},
		"a group called as me":  {sign(t, "group:box-a", `{}`), me, now, ErrNotForMe},
		"a box called as group": {sign(t, "north", `{}`), me, now, ErrNotForMe},
		"another fleet":         {good, Box{Fleet: "other", ID: "box-a"}, now, ErrNotForMe},
		"a box without a name":  {good, Box{}, now, ErrNotForMe},
		"expired":               {good, me, now.Add(time.Hour + time.Second), ErrExpired},
		"receiver changed":      {flipped(`"to":"box-a"`, `"to":"box-b"`), Box{Fleet: "test", ID: "box-b"}, now, ErrSignature},
		"payload changed":       {flipped(`"payload":{}`, `"payload":[]`), me, now, ErrSignature},
		"a field added":         {flipped(`"payload":{}`, `"payload":{},"x":1`), me, now, ErrSignature},
		"a field added outside": {flipped(`"v":1`, `"v":1,"x":1`), me, now, ErrMalformed},
		"newer":                 {flipped(`"v":1`, `"v":2,"x":1`), me, now, ErrVersion},
		"older":                 {flipped(`"v":1`, `"v":0`), me, now, ErrMalformed},
		"two in one":            {append(bytes.Clone(good), good...), me, now, ErrMalformed},
		"empty":                 {nil, me, now, ErrMalformed},
		"huge":                  {bytes.Repeat([]byte(" "), MaxEnvelope+1), me, now, ErrMalformed},
	} {
		if _, err := Verify(public, c.data, c.self, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	forged, err := Sign(otherKey, "test", "cmd", "box-a", now.Add(time.Hour), json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(public, forged, me, now); !errors.Is(err, ErrSignature) {
		t.Errorf("another's key: %v", err)
	}
	if _, err := Verify(nil, good, me, now); !errors.Is(err, ErrSignature) {
		t.Errorf("no keys known: %v", err)
	}
	// Key rotation: both are known for a while.
	both := append([]ed25519.PublicKey{otherKey.Public().(ed25519.PublicKey)}, public...)
	for _, data := range [][]byte{good, forged} {
		if _, err := Verify(both, data, me, now); err != nil {
			t.Errorf("with both keys: %v", err)
		}
	}
}

// A signature of something else under the same key is worth nothing: the context keeps them apart.
func TestSignatureOfOtherThings(t *testing.T) {
	signed := `{"fleet":"test","to":"box-a","kind":"cmd","id":"1","issued":"2026-01-01T00:00:00Z","expires":"2036-01-01T00:00:00Z","payload":{}}`
	env := mustJSON(envelope{V: 1, Signed: json.RawMessage(signed), Signatures: []signature{
		{Key: KeyID(public[0]), Sig: ed25519.Sign(key, []byte(signed))},
	}})
	if _, err := Verify(public, []byte(env), me, now); !errors.Is(err, ErrSignature) {
		t.Fatalf("a signature without the context: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	later := now.Add(time.Hour)
	for name, f := range map[string]func() ([]byte, error){
		"no key":      func() ([]byte, error) { return Sign(nil, "test", "cmd", "box-a", later, []byte(`{}`)) },
		"no fleet":    func() ([]byte, error) { return Sign(key, "", "cmd", "box-a", later, []byte(`{}`)) },
		"no receiver": func() ([]byte, error) { return Sign(key, "test", "cmd", "", later, []byte(`{}`)) },
		"a wildcard":  func() ([]byte, error) { return Sign(key, "test", "cmd", "group:#", later, []byte(`{}`)) },
		"no payload":  func() ([]byte, error) { return Sign(key, "test", "cmd", "box-a", later, nil) },
		"bad payload": func() ([]byte, error) { return Sign(key, "test", "cmd", "box-a", later, []byte(`{`)) },
		"the past":    func() ([]byte, error) { return Sign(key, "test", "cmd", "box-a", now.Add(-time.Hour), []byte(`{}`)) },
		"too large": func() ([]byte, error) {
			return Sign(key, "test", "cmd", "box-a", later, []byte(`"`+strings.Repeat("x", MaxEnvelope)+`"`))
		},
	} {
		if data, err := f(); err == nil {
			t.Errorf("%s: signed %s", name, data)
		}
	}
}

func FuzzVerify(f *testing.F) {
	good := sign(f, "box-a", `{"a":1}`)
	f.Add(good)
	f.Add([]byte(`{"v":1,"signed":{},"signatures":[]}`))
	f.Add([]byte(`{"v":9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Verify(public, data, me, now)
		if err == nil && (m.To != "box-a" || string(m.Payload) != `{"a":1}`) {
			t.Fatalf("forged: %+v", m)
		}
		if err != nil && m.ID != "" {
			t.Fatal("a message with an error")
		}
	})
}
