package cache

import "math/bits"

// bitset is a set of piece numbers. It takes no memory beyond itself while it is empty or full.
type bitset struct {
	n, ones int
	w       []uint64 // nil: all alike
}

func newBits(n int) bitset { return bitset{n: n} }

func (b *bitset) get(i int) bool {
	if b.w == nil {
		return b.ones > 0
	}
	return b.w[i>>6]>>(i&63)&1 != 0
}

func (b *bitset) expand() {
	if b.w != nil {
		return
	}
	b.w = make([]uint64, (b.n+63)/64)
	if b.ones == 0 {
		return
	}
	for i := range b.w {
		b.w[i] = ^uint64(0)
	}
	if r := b.n & 63; r != 0 {
		b.w[len(b.w)-1] = 1<<r - 1
	}
}

// set says whether it changed anything.
func (b *bitset) set(i int) bool {
	if b.get(i) {
		return false
	}
	b.expand()
	b.w[i>>6] |= 1 << (i & 63)
	b.ones++
	if b.ones == b.n {
		b.w = nil
	}
	return true
}

// clear says whether it changed anything.
func (b *bitset) clear(i int) bool {
	if !b.get(i) {
		return false
	}
	b.expand()
	b.w[i>>6] &^= 1 << (i & 63)
	b.ones--
	if b.ones == 0 {
		b.w = nil
	}
	return true
}

func (b *bitset) full() bool { return b.ones == b.n }

func (b *bitset) clone() bitset {
	c := *b
	if b.w != nil {
		c.w = append([]uint64(nil), b.w...)
	}
	return c
}

// next returns the first i >= from with the given value, or n.
func (b *bitset) next(from int, val bool) int {
	if b.w == nil {
		if (b.ones > 0) == val {
			return min(from, b.n)
		}
		return b.n
	}
	for i := from; i < b.n; {
		w := b.w[i>>6]
		if !val {
			w = ^w
		}
		if w >>= i & 63; w != 0 {
			return min(b.n, i+bits.TrailingZeros64(w))
		}
		i = (i | 63) + 1
	}
	return b.n
}

// bytes is the set as a BitTorrent bitfield: piece 0 is the highest bit of the first byte (BEP 3).
func (b *bitset) bytes() []byte {
	out := make([]byte, (b.n+7)/8)
	for i := b.next(0, true); i < b.n; i = b.next(i+1, true) {
		out[i>>3] |= 0x80 >> (i & 7)
	}
	return out
}

// bitsOf reads what bytes wrote; spare bits must be zero.
func bitsOf(raw []byte, n int) (bitset, bool) {
	b := newBits(n)
	if len(raw) != (n+7)/8 {
		return b, false
	}
	if r := n & 7; r != 0 && raw[len(raw)-1]<<r != 0 {
		return b, false
	}
	b.w = make([]uint64, (n+63)/64)
	for i, v := range raw {
		b.w[i>>3] |= uint64(bits.Reverse8(v)) << (i & 7 * 8)
		b.ones += bits.OnesCount8(v)
	}
	if b.ones == 0 || b.ones == n {
		b.w = nil
	}
	return b, true
}
