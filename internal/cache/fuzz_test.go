package cache

import (
	"bytes"
	"testing"
	"time"

	"boxd/internal/asset"
)

// Whatever is in an index row, decoding it gives a row that is sane and encodes to the same again, or an error.
func FuzzRow(f *testing.F) {
	id := asset.ID{1, 2, 3}
	have := newBits(7)
	have.set(3)
	for _, r := range []*row{
		{
			gen: 7, length: 7*testPiece - 5, pieceLen: testPiece, alloc: 7*testPiece - 5, torrentLen: 300, have: have,
			created: time.Unix(1_700_000_000, 0), attr: Attr{Name: "film", Priority: -2, PrefixBytes: 9},
		},
		{gen: 1, length: 1, pieceLen: testPiece, alloc: 0, have: newBits(1)},
		{gen: 1, length: 9 << 30, pieceLen: 16 << 20, alloc: 9 << 30, sparse: true, have: bitset{n: 576, ones: 576}},
	} {
		raw := r.encode(id)
		f.Add(raw[:len(raw)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		// The fuzzer cannot guess a checksum: it is given the right one, and must fail with a wrong one.
		sum := rowSum(id, body)
		raw := append(bytes.Clone(body), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		r, err := decodeRow(id, raw)
		if err != nil {
			return
		}
		if !r.sane() || r.have.n != pieces(r.length, r.pieceLen) || r.have.ones > r.have.n {
			t.Fatalf("insane row %+v", r)
		}
		for i := r.have.next(0, true); i < r.have.n; i = r.have.next(i+1, true) {
			if int64(i)*r.pieceLen >= r.alloc {
				t.Fatalf("piece %d beyond the %d bytes reserved", i, r.alloc)
			}
		}
		again, err := decodeRow(id, r.encode(id))
		if err != nil || again.gen != r.gen || again.attr != r.attr || again.have.ones != r.have.ones ||
			again.alloc != r.alloc {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
		raw[len(raw)/2] ^= 1
		if _, err := decodeRow(id, raw); err == nil {
			t.Fatal("a flipped bit was not noticed")
		}
		if _, err := decodeRow(asset.ID{9}, r.encode(id)); err == nil {
			t.Fatal("the row of another asset was taken")
		}
	})
}

func FuzzBlobName(f *testing.F) {
	f.Add(blobName(asset.ID{1}, 5))
	f.Add("0000000000000000000000000000000000000000.0000000g.blob")
	f.Fuzz(func(t *testing.T, name string) {
		if id, gen, ok := parseBlobName(name); ok && blobName(id, gen) != name {
			t.Fatalf("%q is read as %s %x", name, id, gen)
		}
	})
}

func TestBitset(t *testing.T) {
	for _, n := range []int{1, 7, 8, 63, 64, 65, 200} {
		b, ref := newBits(n), make([]bool, n)
		for step := range 4 * n {
			i := step * 7919 % n
			if step%3 == 0 {
				if b.clear(i) != ref[i] {
					t.Fatal("clear")
				}
				ref[i] = false
			} else {
				if b.set(i) == ref[i] {
					t.Fatal("set")
				}
				ref[i] = true
			}
			checkBits(t, &b, ref)
		}
		for i := range n {
			b.set(i)
			ref[i] = true
		}
		checkBits(t, &b, ref)
		if !b.full() || b.w != nil {
			t.Fatal("a full set takes memory")
		}
	}
	if _, ok := bitsOf([]byte{0x01}, 7); ok {
		t.Fatal("spare bits must be zero")
	}
}

func checkBits(t *testing.T, b *bitset, ref []bool) {
	t.Helper()
	ones, next := 0, len(ref)
	for i := len(ref) - 1; i >= 0; i-- {
		if ref[i] {
			ones++
			next = i
		}
		if b.get(i) != ref[i] || b.next(i, true) != next {
			t.Fatalf("bit %d of %d", i, len(ref))
		}
	}
	if b.ones != ones {
		t.Fatalf("%d ones, want %d", b.ones, ones)
	}
	c, ok := bitsOf(b.bytes(), b.n)
	if !ok || c.ones != ones || !bytes.Equal(c.bytes(), b.bytes()) {
		t.Fatal("bytes do not come back")
	}
}
