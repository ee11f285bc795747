package ca

import (
	"strings"
	"testing"

	"boxd/internal/fleet/keyfile"
)

func FuzzParseToken(f *testing.F) {
	f.Add("bt1-abcdefgh-abcdefghijklmnopqrstuvwxyz234567")
	f.Add("bt1--")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, ok := parseToken(s)
		if ok && (s != tokenPrefix+id+"-"+secret || len(id) != tokenIDLen || strings.ToLower(s) != s) {
			t.Fatalf("%q was read as %q and %q", s, id, secret)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	plain, err := keyfile.Encode(key, nil)
	if err != nil {
		f.Fatal(err)
	}
	locked, err := keyfile.Encode(key, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain, "")
	f.Add(locked, "")
	f.Fuzz(func(t *testing.T, data []byte, passphrase string) {
		if strings.Contains(string(data), "ENCRYPTED") && passphrase != "" {
			passphrase = "" // whoever writes the file picks the number of rounds, which is minutes of this test's time
		}
		if k, err := parseKey(data, []byte(passphrase)); err == nil && k == nil {
			t.Fatal("neither a key nor an error")
		}
	})
}
