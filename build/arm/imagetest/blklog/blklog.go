// Package blklog reads what qemu's blklogwrites driver logged of a disk (the format of Linux' dm-log-writes) and lays the
// writes over an image as they could be found after a power cut.
//
// A cut keeps what the disk promised: everything that was written before the last flush is there, of what came after it any
// part may be.
package blklog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

const (
	magic = 0x6a736677736872

	flagFlush   = 1 << 0
	flagFUA     = 1 << 1
	flagDiscard = 1 << 2
)

// Entry is one request to the disk.
type Entry struct {
	Offset, Length int64 // bytes on the disk
	Data           int64 // where its data is in the log
	Flush          bool  // everything before it is durable
	FUA            bool  // durable by itself
	Discard        bool
}

// Read lists the entries of a log up to where it ends, be it cut short.
func Read(log io.ReaderAt, size int64) ([]Entry, error) {
	var super [28]byte
	if _, err := log.ReadAt(super[:], 0); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	if m := binary.LittleEndian.Uint64(super[:]); m != magic {
		return nil, fmt.Errorf("magic %#x is not a log of writes", m)
	}
	sector := int64(binary.LittleEndian.Uint32(super[24:]))
	if sector < 512 || sector > 65536 || sector&(sector-1) != 0 {
		return nil, fmt.Errorf("sectors of %d bytes", sector)
	}
	var entries []Entry
	for pos := sector; pos+sector <= size; {
		var raw [32]byte
		if _, err := log.ReadAt(raw[:], pos); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(entries), err)
		}
		word := func(i int) int64 { return int64(binary.LittleEndian.Uint64(raw[8*i:])) }
		start, n, flags := word(0), word(1), word(2)
		if start == 0 && n == 0 && flags == 0 {
			break // never written: the end
		}
		if start < 0 || n < 0 || n > 1<<32 {
			return nil, fmt.Errorf("entry %d: %d sectors at %d", len(entries), n, start)
		}
		e := Entry{
			Offset: start * sector, Length: n * sector, Data: pos + sector,
			Flush: flags&flagFlush != 0, FUA: flags&flagFUA != 0, Discard: flags&flagDiscard != 0,
		}
		pos += sector
		if !e.Discard {
			pos += e.Length
		}
		if pos > size {
			break
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Replay lays a log over an image step by step.
type Replay struct {
	log     io.ReaderAt
	entries []Entry
	from    int64 // of the disk that the image shows: this offset,
	length  int64 // so many bytes
	durable int   // entries that are in the image for good
}

// New starts a replay for an image of the bytes [from, from+length) of the disk, as they were before the log began.
func New(log io.ReaderAt, entries []Entry, from, length int64) *Replay {
	return &Replay{log: log, entries: entries, from: from, length: length}
}

// Advance brings the image to what is certain at entry at (exclusive): everything before the last flush in front of it.
// Cuts must come in rising order. It returns the first entry that is not certain.
func (r *Replay) Advance(image io.WriterAt, at int) (int, error) {
	flush := r.durable
	for i := r.durable; i < at; i++ {
		if r.entries[i].Flush {
			flush = i + 1
		}
	}
	for ; r.durable < flush; r.durable++ {
		if err := r.apply(image, r.entries[r.durable], -1); err != nil {
			return 0, err
		}
	}
	return flush, nil
}

// Scatter writes a random part of the entries [first, at) to a copy of the image: what may have reached the platter. An
// entry with FUA is kept whole. The last one is torn at a sector.
func (r *Replay) Scatter(image io.WriterAt, first, at int, rng *rand.Rand) error {
	keep := rng.Float64()
	for i := first; i < at; i++ {
		e := r.entries[i]
		part := int64(-1)
		switch {
		case e.FUA:
		case i == at-1 && e.Length > 512:
			part = rng.Int64N(e.Length/512) * 512
		case rng.Float64() >= keep:
			continue
		}
		if err := r.apply(image, e, part); err != nil {
			return err
		}
	}
	return nil
}

// apply writes an entry, or its first part bytes, as far as it lies inside the image.
func (r *Replay) apply(image io.WriterAt, e Entry, part int64) error {
	if e.Length == 0 {
		return nil
	}
	length := e.Length
	if part >= 0 {
		length = part
	}
	start, end := max(e.Offset, r.from), min(e.Offset+length, r.from+r.length)
	buf := make([]byte, 1<<20)
	for start < end {
		n := min(end-start, int64(len(buf)))
		if e.Discard {
			clear(buf[:n])
		} else if _, err := r.log.ReadAt(buf[:n], e.Data+start-e.Offset); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("log at %d: %w", e.Data, err)
		}
		if _, err := image.WriteAt(buf[:n], start-r.from); err != nil {
			return err
		}
		start += n
	}
	return nil
}
