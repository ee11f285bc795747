package cache

import (
	"time"

	"boxd/internal/asset"
)

// Status says how an asset stands.
type Status struct {
	ID           asset.ID  `json:"id"`
	Attr         Attr      `json:"attr"`
	Length       int64     `json:"length"`   // bytes
	Reserved     int64     `json:"reserved"` // bytes of the disk that it has; less than Length for a prefix
	Bytes        int64     `json:"bytes"`    // verified
	Pieces, Have int       // all, and verified
	PieceLength  int64     `json:"piece_length"`
	Complete     bool      `json:"complete"`
	Durable      bool      `json:"durable"` // what is verified would survive a power cut now
	Pinned       bool      `json:"pinned"`
	Readers      int       `json:"readers"`
	Held         bool      `json:"held"`
	Unknown      int       `json:"unknown"` // pieces still to be re-hashed after the index was lost: do not fetch yet
	Created      time.Time `json:"created"`
	LastUse      time.Time `json:"last_use"`
	Scrubbed     time.Time `json:"scrubbed"` // when the last scrub of the whole asset ended
	Checked      int64     `json:"checked"`  // bytes that a Verify that is running has read back; 0 when none runs
}

// Assets lists all assets by ID.
func (c *Cache) Assets() []Status {
	c.mu.Lock()
	list := c.sorted()
	c.mu.Unlock()
	out := make([]Status, 0, len(list))
	for _, e := range list {
		e.mu.Lock()
		if !e.gone {
			out = append(out, e.status())
		}
		e.mu.Unlock()
	}
	return out
}

// Usage says how the space stands, in bytes.
type Usage struct {
	Used    int64 `json:"used"`  // reserved by assets, with their metainfo
	Quota   int64 `json:"quota"` // 0 is none
	Reserve int64 `json:"reserve"`
	Free    int64 `json:"free"`  // of the file system; -1 when it cannot be told
	Total   int64 `json:"total"` // of the file system
	Assets  int   `json:"assets"`
	Pending int64 `json:"pending"` // verified, not yet durable
}

// Usage says how the space stands.
func (c *Cache) Usage() Usage {
	free, total, err := c.fs.Free(c.o.Dir)
	if err != nil {
		free, total = -1, -1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Usage{
		Used: c.used, Quota: c.o.Quota, Reserve: c.o.Reserve, Free: free, Total: total, Assets: len(c.entries),
		Pending: c.stats.pending.Load(),
	}
}
