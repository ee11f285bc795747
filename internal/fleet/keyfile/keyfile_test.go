package keyfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
)

func TestThereAndBack(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, pass := range [][]byte{nil, []byte("correct horse")} {
		data, err := Encode(ec, pass)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Decode(data, pass); err != nil || !ec.Equal(back) {
			t.Fatalf("P-256 with passphrase %q: %v", pass, err)
		}
		if data, err = Encode(ed, pass); err != nil {
			t.Fatal(err)
		}
		if back, err := Decode(data, pass); err != nil || !ed.Equal(back) {
			t.Fatalf("Ed25519 with passphrase %q: %v", pass, err)
		}
		if encrypted, isKey := Encrypted(data); encrypted != (pass != nil) || !isKey {
			t.Fatalf("encrypted %v, key %v", encrypted, isKey)
		}
		if pass == nil {
			continue
		}
		for _, wrong := range [][]byte{nil, []byte("wrong"), []byte("correct horse ")} {
			if _, err := Decode(data, wrong); !errors.Is(err, ErrPassphrase) {
				t.Errorf("with passphrase %q: %v", wrong, err)
			}
		}
	}
}

func TestShares(t *testing.T) {
	pass, err := NewPassphrase()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ n, k int }{{1, 1}, {2, 2}, {5, 3}, {16, 16}, {3, 1}} {
		shares, err := Split(pass, c.n, c.k)
		if err != nil || len(shares) != c.n {
			t.Fatal(err)
		}
		for first := range shares { // every run of k, in both directions
			some := append(append([]string(nil), shares[first:]...), shares[:first]...)[:c.k]
			if back, err := Join(some); err != nil || !bytes.Equal(back, pass) {
				t.Fatalf("%d of %d from %d: %q, %v", c.k, c.n, first, back, err)
			}
			if c.k > 1 {
				if _, err := Join(some[:c.k-1]); !errors.Is(err, ErrShares) {
					t.Fatalf("%d of %d are enough: %v", c.k-1, c.k, err)
				}
				twice := append(append([]string(nil), some[:c.k-1]...), some[0])
				if _, err := Join(twice); !errors.Is(err, ErrShares) {
					t.Fatalf("one share twice is enough: %v", err)
				}
			}
		}
	}
	shares, err := Split(pass, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Join([]string{" " + strings.ToUpper(shares[2]) + "\n", shares[0]}); err != nil || !bytes.Equal(back, pass) {
		t.Errorf("as a person types it: %v", err)
	}
	other, err := Split(pass, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join([]string{shares[0], other[1]}); !errors.Is(err, ErrShares) {
		t.Errorf("shares of two sets: %v", err)
	}
	for i := range shares[0] {
		b := []byte(shares[0])
		b[i] ^= 1
		if back, err := Join([]string{string(b), shares[1]}); err == nil && !bytes.Equal(back, pass) {
			t.Errorf("character %d mistyped gives another passphrase", i)
		}
	}
	for _, c := range []struct{ n, k int }{{0, 0}, {2, 3}, {17, 2}, {2, 0}} {
		if _, err := Split(pass, c.n, c.k); err == nil {
			t.Errorf("%d of %d was split", c.k, c.n)
		}
	}
	if _, err := Split([]byte("my own"), 2, 2); err == nil {
		t.Error("a passphrase of somebody's own was split")
	}
}

// One share of two says nothing: over many splits of the same passphrase every byte value turns up.
func TestOneShareSaysNothing(t *testing.T) {
	pass, err := NewPassphrase()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[byte]bool{}
	for range 4000 {
		shares, err := Split(pass, 2, 2)
		if err != nil {
			t.Fatal(err)
		}
		_, _, y, err := parseShare(shares[0])
		if err != nil {
			t.Fatal(err)
		}
		seen[y[0]] = true
	}
	if len(seen) != 256 {
		t.Fatalf("the first byte took %d of 256 values", len(seen))
	}
}

func TestField(t *testing.T) {
	for a := 1; a < 256; a++ {
		if p := mul(byte(a), inverse(byte(a))); p != 1 {
			t.Fatalf("%d times its inverse is %d", a, p)
		}
	}
	if mul(0x57, 0x83) != 0xc1 { // FIPS 197, section 4.2
		t.Fatalf("0x57 times 0x83 is %#x", mul(0x57, 0x83))
	}
}

func FuzzJoin(f *testing.F) {
	f.Add("bk1-2-1-aaaa-abcd", "bk1-2-2-aaaa-abcd")
	f.Fuzz(func(t *testing.T, a, b string) {
		if _, err := Join([]string{a, b}); err != nil && !errors.Is(err, ErrShares) {
			t.Fatal(err)
		}
	})
}
