package server_test

import (
	"path/filepath"
	"testing"

	"boxd/internal/asset"
)

// A box gets five assets a night for a month in which it cannot reach its manager, and has room for three nights. When the
// manager is back it counts every arrival and every erasure once, in their order.
func TestAMonthWithoutAManager(t *testing.T) {
	const nights, each, kept = 30, 5, 3
	dir := t.TempDir()
	m := startManager(t, dir)
	b := startBox(t, m, firmwareToken(t, m))
	id, urls := b.id.BoxID(), configOf(t, filepath.Join(dir, "firmware"))
	eventually(t, "the box is online", func() bool { return m.box(t, id).Online })
	m.stop()
	want := 0
	for night := range nights {
		var held []asset.ID
		for n := max(0, night-kept+1); n <= night; n++ {
			for k := range each {
				held = append(held, asset.ID{9, byte(n), byte(k)})
			}
		}
		b.hold(held...)
		want += each
		if night >= kept {
			want += each // those of the first of the nights before make room
		}
		eventually(t, "the box has noted it", func() bool { return b.mg.Status().Outbox == want })
	}
	m = again(t, dir, urls)
	eventually(t, "all is told", func() bool { return b.mg.Status().Outbox == 0 && len(m.proofs(t)) == want })
	kinds, last := map[string]int{}, int64(0)
	seen := map[string]bool{}
	for _, p := range m.proofs(t) {
		kinds[p.Kind]++
		if key := p.Kind + p.Asset.String(); seen[key] {
			t.Errorf("%s of %s was counted twice", p.Kind, p.Asset)
		} else {
			seen[key] = true
		}
		if p.Evt <= last {
			t.Errorf("event %d came after %d", p.Evt, last)
		}
		last = p.Evt
	}
	if kinds["arrived"] != nights*each || kinds["erased"] != (nights-kept)*each {
		t.Errorf("%v", kinds)
	}
	if got := m.box(t, id); len(got.Ready) != kept*each {
		t.Errorf("the manager believes that the box holds %d assets, want %d", len(got.Ready), kept*each)
	}
}
