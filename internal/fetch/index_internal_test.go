package fetch

import (
	"encoding/binary"
	"testing"
)

func FuzzFilmIndex(f *testing.F) {
	box := func(size uint32, kind string, more ...byte) []byte {
		return append(append(binary.BigEndian.AppendUint32(nil, size), kind...), more...)
	}
	ftyp := box(16, "ftyp", make([]byte, 8)...)
	f.Add(append(ftyp, box(5000, "mdat", make([]byte, 8)...)...), int64(9000))
	f.Add(append(ftyp, box(1, "mdat", 0, 0, 0, 1, 0, 0, 0, 0)...), int64(1<<33))
	f.Add(append(ftyp, box(1, "mdat", 255, 255, 255, 255, 255, 255, 255, 255)...), int64(1<<40))
	f.Add(append(ftyp, box(700, "moov", make([]byte, 8)...)...), int64(9000))
	f.Add(append(ftyp, box(0, "mdat", make([]byte, 8)...)...), int64(9000))
	f.Fuzz(func(t *testing.T, data []byte, length int64) {
		if length < int64(len(data)) {
			return
		}
		reads := 0
		from, ok := filmIndex(func(p []byte, at int64) bool {
			if reads++; at < 0 || at+int64(len(p)) > int64(len(data)) {
				t.Fatalf("reads %d bytes at %d of %d", len(p), at, len(data))
			}
			copy(p, data[at:])
			return true
		}, int64(len(data)), length)
		if ok && (from <= 0 || from >= length) || reads > len(data)/8+1 {
			t.Errorf("the index of %d bytes is at %d, after %d reads", length, from, reads)
		}
	})
}

func TestFilmIndex(t *testing.T) {
	t.Parallel()
	film := append(append(binary.BigEndian.AppendUint32(nil, 16), "ftyp00000000\x00\x00\x00\x01mdat\x00\x00\x00\x01"...), 0, 0, 0, 0)
	read := func(p []byte, at int64) bool { return copy(p, film[at:]) == len(p) }
	for length, want := range map[int64]int64{1 << 33: 1<<32 + 16, 1<<32 + 16: 0, 1 << 20: 0} {
		if from, ok := filmIndex(read, int64(len(film)), length); from != want || ok != (want > 0) {
			t.Errorf("a film of %d bytes has its index at %d, want %d", length, from, want)
		}
	}
}
