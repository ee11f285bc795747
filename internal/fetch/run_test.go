package fetch

import (
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
	"boxd/internal/schedule"
)

// Who begins first knows of nobody yet and asks for little at one time: what it takes, others would soon take, too.
func TestRequestsGrowAsLongAsNobodyElseIsThere(t *testing.T) {
	const mib = 1 << 20
	var pieces []int
	for i := range 100 {
		pieces = append(pieces, i)
	}
	for since, want := range map[time.Duration]int{0: 4, aloneAfter + time.Second: 8, 2*aloneAfter + time.Second: 32} {
		f := &Fetcher{}
		f.measured.best = 8 * mib
		it := &item{
			info:       &asset.Info{PieceLength: mib, Length: 100 * mib},
			originRate: pace.NewBucket(pace.Unlimited), wanSince: time.Now().Add(-since),
		}
		if first, end := f.runOf(it, pieces, schedule.OriginAssist, false); end-first != want {
			t.Errorf("alone for %v it asks for %d MiB, want %d", since, end-first, want)
		}
	}
}
