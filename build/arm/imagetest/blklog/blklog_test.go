package blklog

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// disk is an image in memory.
type disk []byte

func (d disk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }

type request struct {
	sector int64
	fill   byte // 0 is a flush
	flags  uint64
}

// logOf writes a log as qemu does: one sector for each request.
func logOf(requests ...request) []byte {
	le := binary.LittleEndian
	super := le.AppendUint64(le.AppendUint64(le.AppendUint64(nil, magic), 1), uint64(len(requests)))
	log := append(le.AppendUint32(super, 512), make([]byte, 512-28)...)
	for _, r := range requests {
		n := uint64(1)
		if r.fill == 0 {
			n = 0
		}
		e := le.AppendUint64(le.AppendUint64(le.AppendUint64(le.AppendUint64(nil, uint64(r.sector)), n), r.flags), 0)
		log = append(append(log, e...), make([]byte, 512-32)...)
		log = append(log, bytes.Repeat([]byte{r.fill}, 512*int(n))...)
	}
	return log
}

func TestFlushedWritesSurviveEveryHonestCut(t *testing.T) {
	raw := logOf(request{sector: 2, fill: 1}, request{sector: 3, fill: 2}, request{flags: flagFlush},
		request{sector: 2, fill: 3}, request{sector: 4, fill: 4, flags: flagFUA}, request{sector: 5, fill: 5})
	entries, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil || len(entries) != 6 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	old, fresh := 0, 0
	for seed := range uint64(64) {
		r := New(bytes.NewReader(raw), entries, 1024, 2048) // sectors 2 to 5
		image := make(disk, 2048)
		first, err := r.Advance(image, 6)
		if err != nil || first != 3 {
			t.Fatalf("certain up to %d, %v", first, err)
		}
		if err := r.Scatter(image, first, 6, rand.New(rand.NewPCG(seed, 1))); err != nil {
			t.Fatal(err)
		}
		switch image[0] {
		case 1:
			old++
		case 3:
			fresh++
		default:
			t.Fatalf("sector 2 holds %d", image[0])
		}
		if image[512] != 2 || image[1024] != 4 {
			t.Fatalf("a flushed or forced write is lost: %d %d", image[512], image[1024])
		}
	}
	if old == 0 || fresh == 0 {
		t.Errorf("64 cuts found the old sector %d times and the new one %d times: want both", old, fresh)
	}
}

func TestReadStopsWhereTheLogWasCut(t *testing.T) {
	raw := logOf(request{sector: 2, fill: 1}, request{sector: 3, fill: 2})
	entries, err := Read(bytes.NewReader(raw), int64(len(raw)-100))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d entries, %v; want the one that is whole", len(entries), err)
	}
	if _, err := Read(bytes.NewReader(make([]byte, 1024)), 1024); err == nil {
		t.Error("zeros were taken for a log")
	}
}
