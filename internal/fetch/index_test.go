package fetch_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"boxd/internal/catalog"
	"boxd/internal/fetch"
)

// atoms are the heads of boxes of an MP4 file, one after the other.
func atoms(list ...any) (b []byte) {
	for i := 0; i < len(list); i += 2 {
		b = binary.BigEndian.AppendUint32(b, uint32(list[i+1].(int)))
		b = append(b, list[i].(string)...)
	}
	return b
}

// A film's index that is at its end comes right after its beginning, over the same connection, and the player that reads it
// then does not wait; where it is in front, or in a film of another kind, nothing but what is played comes.
func TestAFilmsIndexAtItsEndIsFetchedBeforeItIsAskedFor(t *testing.T) {
	t.Parallel()
	const pieces = 600
	beginning := append(atoms("ftyp", 24), make([]byte, 16)...)
	for name, c := range map[string]struct {
		begin []byte
		want  []int // the first pieces that come
	}{
		"index at the end": {
			append(beginning, atoms("free", 8, "mdat", 590*dayPiece)...), []int{0, 590, 591, 592},
		},
		"index in front": {append(beginning, atoms("moov", 3*dayPiece, "mdat", 500*dayPiece)...), []int{0, 1, 2, 3}},
		"nothing known":  {nil, []int{0, 1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDay(t, "2026-06-05 12:00")
				a := d.publishFilm("film.mp4", pieces*dayPiece, c.begin)
				d.campaign("f", catalog.Campaign{Windows: []catalog.Window{hm("22:00", "23:00", -1)}}, a)
				d.start(fetch.Limits{})
				k := d.kept(a)
				k.play(0, 40)
				for i, want := range c.want {
					for begin := time.Now(); !k.Have(want); {
						d.wait(50 * time.Millisecond)
						if took := time.Since(begin); took > 1500*time.Millisecond {
							t.Fatalf("piece %d is not here after %v; %v are", want, took, d.here(a))
						}
					}
					if got := d.here(a); len(got) > i+2 {
						t.Errorf("with piece %d came %v", want, got)
					}
				}
				d.wait(20 * time.Second)
				if got := d.here(a); !slices.Contains(got, 4) {
					t.Errorf("the film does not go on: %v", got)
				}
				d.stop()
			})
		})
	}
}
