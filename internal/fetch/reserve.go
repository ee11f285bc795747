package fetch

import (
	"time"

	"boxd/internal/asset"
)

// growAgain is how long the cache is left alone after it had no space.
const growAgain = 30 * time.Second

// askTime is how long one step may stand still for the cache: where freed space shows late, or a disk is slow, each of many
// assets may have to wait. The others have their turn in the next step, so that whoever asks meanwhile is answered between.
const askTime = time.Second

// room asks the cache for space, and counts what that takes of the step.
func (f *Fetcher) room(torrent []byte, attr Attr) (Asset, error) {
	began := time.Now()
	defer func() { f.asking += time.Since(began) }()
	return f.o.Cache.Create(torrent, attr)
}

// reserve creates a wanted asset in the cache: admission precedes download. Of an asset whose campaign wants its beginning
// first only that is reserved, until it is here. When the rest is refused, what is here stays.
func (f *Fetcher) reserve(it *item, mono time.Time) {
	if it.meta == nil {
		return
	}
	attr := Attr{
		Name: it.meta.name, Version: it.meta.version, Publisher: it.meta.publisher, Priority: it.want.Priority,
		Deadline: it.want.Deadline, KeepUntil: it.want.KeepUntil, NeighbourHolds: f.neighbourHolds(it.id),
	}
	need := it.info.Length
	if it.want.Prefix && !f.wantedBeyond(it) {
		attr.PrefixBytes = f.prefixBytes(it)
		need = min(need, attr.PrefixBytes)
	}
	if f.asking > askTime {
		f.wake()
		return
	}
	if it.store == nil {
		f.create(it, attr, mono)
		return
	}
	if it.store.Reserved() >= need {
		it.growErr = nil
	} else if it.want.Fetch || it.growErr != nil {
		f.grow(it, attr, mono)
		return
	}
	if attr != it.attr {
		if err := f.o.Cache.SetAttr(it.id, attr); err == nil {
			it.attr = attr
		}
	}
}

func (f *Fetcher) create(it *item, attr Attr, mono time.Time) {
	rejected := it.state == Rejected && mono.Before(it.retryAt)
	if rejected || !(it.want.Fetch || it.state == Rejected) {
		return
	}
	store, err := f.room(it.meta.torrent, attr)
	if err != nil {
		it.state, it.code, it.codeText = Rejected, rejectCode(err), err.Error()
		it.retryAt = mono.Add(growAgain)
		f.log.Info("an asset was refused by the cache", "asset", it.id.Short(), "err", err)
		return
	}
	if it.state == Rejected {
		it.state, it.code, it.codeText = Accepted, "", ""
	}
	it.attr, it.growErr = attr, nil
	f.adopt(it, store)
	f.wake()
}

// grow asks for more space for an asset that is here in part.
func (f *Fetcher) grow(it *item, attr Attr, mono time.Time) {
	if it.growErr != nil && mono.Before(it.growAt) {
		return
	}
	_, err := f.room(it.meta.torrent, attr)
	it.attr = attr // the cache takes it over in any case
	if err == nil {
		it.growErr = nil
		f.wake()
		return
	}
	if it.growErr == nil {
		f.log.Info("the cache has no space for the rest of an asset", "asset", it.id.Short(), "err", err)
	}
	it.growErr, it.growAt = err, mono.Add(growAgain)
}

// reservedPieces is how many pieces from the front may be fetched.
func (it *item) reservedPieces() int {
	r := it.store.Reserved()
	if r >= it.info.Length {
		return it.info.NumPieces()
	}
	return int(r / it.info.PieceLength)
}

// wantedBeyond reports whether a player here or elsewhere in the home waits for what lies behind the space that is
// reserved.
func (f *Fetcher) wantedBeyond(it *item) bool {
	if it.store == nil {
		return false
	}
	room := it.reservedPieces()
	for _, spans := range [][]Span{it.demand, f.neighbourDemand(it)} {
		for _, s := range spans {
			if s.End > room {
				return true
			}
		}
	}
	return false
}

// prefixBytes is the beginning that campaigns want before the rest of any asset.
func (f *Fetcher) prefixBytes(it *item) int64 {
	var prefix int64
	for _, c := range f.sched.Campaigns {
		for _, r := range c.Assets {
			if r.ID == it.want.ID {
				prefix = max(prefix, r.PrefixBytes)
			}
		}
	}
	return prefix
}

func (f *Fetcher) prefixEnd(it *item) int {
	_, end := it.info.PiecesOf(0, min(f.prefixBytes(it), it.info.Length))
	return end
}

func (f *Fetcher) neighbourHolds(id asset.ID) bool {
	if f.o.LAN == nil {
		return false
	}
	for _, n := range f.o.LAN.Neighbours() {
		for _, h := range n.Holds {
			if h == id {
				return true
			}
		}
	}
	return false
}
