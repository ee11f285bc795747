package cache

// Path names the file that holds the bytes of an asset with one file, for programs on the box that want a path, such as
// an updater. It is false unless every byte is verified and durable, and it holds until the OnEvict callbacks are given
// the asset or a read finds damage: then the blob goes or gets another name.
func (a *Asset) Path() (string, bool) {
	a.e.mu.Lock()
	defer a.e.mu.Unlock()
	whole := a.e.have.full() && len(a.e.pending) == 0 && !a.e.stale && !a.e.gone && a.e.alloc == a.e.length
	if !whole || len(a.info.Files) != 1 {
		return "", false
	}
	return a.e.c.blobPath(a.e.id, a.e.gen), true
}
