package mgmt

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// maxBilled bounds how many assets' counters are remembered. Only an asset that so many others came after could be told of
// with bytes that were told before.
const maxBilled = 1000

// billed is how an asset's counters stood when its arrival was last told.
type billed struct {
	Counting time.Time `json:"counting"` // when they began
	N        uint64    `json:"n"`        // order in which they were noted
	LAN      int64     `json:"lan"`
	Peer     int64     `json:"peer"`
	Origin   int64     `json:"origin"`
}

// bill returns what came since the asset's last arrival was told, and notes the counters: an asset that was erased and
// fetched again is paid for by what the second copy cost, not by both.
func bill(tx *bbolt.Tx, id asset.ID, counting time.Time, now mqttwire.Traffic) (mqttwire.Traffic, error) {
	b, err := bucket(tx, bucketBilled)
	if err != nil {
		return now, err
	}
	var last billed
	if data := b.Get(id[:]); data == nil || json.Unmarshal(data, &last) != nil {
		last = billed{}
	}
	// Counters that began anew, or went back with a power cut, are told whole: nothing of them was.
	same := last.Counting.Equal(counting) && last.LAN <= now.LAN && last.Peer <= now.Peer && last.Origin <= now.Origin
	n, err := b.NextSequence()
	if err != nil {
		return now, err
	}
	data, err := json.Marshal(billed{counting, n, now.LAN, now.Peer, now.Origin})
	if err != nil {
		return now, err
	}
	if err := b.Put(id[:], data); err != nil {
		return now, err
	}
	if same {
		now.LAN, now.Peer, now.Origin = now.LAN-last.LAN, now.Peer-last.Peer, now.Origin-last.Origin
	}
	return now, nil
}

// forgetBilled drops the oldest beyond the bound.
func forgetBilled(tx *bbolt.Tx) error {
	b := tx.Bucket([]byte(bucketBilled))
	if b == nil {
		return nil
	}
	type entry struct {
		key []byte
		n   uint64
	}
	var list []entry
	err := b.ForEach(func(k, v []byte) error {
		var e billed
		if json.Unmarshal(v, &e) != nil {
			e.N = 0
		}
		list = append(list, entry{append([]byte(nil), k...), e.N})
		return nil
	})
	if err != nil || len(list) <= maxBilled {
		return err
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.n, b.n) })
	for _, e := range list[:len(list)-maxBilled] {
		if err := b.Delete(e.key); err != nil {
			return err
		}
	}
	return nil
}
