package main

import "boxd/internal/cache"

// roomy is the share of the cache that may be taken before this box is a worse courier than one with room: what it brings
// home might be evicted soon, and has to come over the access line again.
const roomy = 0.9

// spaceClass is the cache's part in how good a courier this box would be: 0 with room, else 1.
func spaceClass(u cache.Usage) int {
	limit := u.Quota
	if room := u.Used + u.Free - u.Reserve; u.Free >= 0 && (limit <= 0 || room < limit) {
		limit = room
	}
	if limit > 0 && float64(u.Used) > roomy*float64(limit) || limit <= 0 && u.Free >= 0 {
		return 1
	}
	return 0
}
