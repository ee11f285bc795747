package pace

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestBucketKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBucket(1 << 20)
		start := time.Now()
		var moved int
		for moved < 10<<20 {
			n := b.Grant(16 << 10)
			if err := b.Take(n, nil); err != nil {
				t.Fatal(err)
			}
			b.Give(n / 2)
			moved += n - n/2
		}
		if took := time.Since(start); took < 9900*time.Millisecond || took > 10100*time.Millisecond {
			t.Fatalf("10 MiB at 1 MiB/s took %v", took)
		}
	})
}

func TestBucketOfZeroWaitsForAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBucket(0)
		done := make(chan struct{})
		got := make(chan error, 2)
		go func() { got <- b.Take(1, done) }()
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("a stopped bucket let a byte through: %v", err)
		default:
		}
		b.SetRate(Unlimited)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		b.SetRate(0)
		go func() { got <- b.Take(1, done) }()
		synctest.Wait()
		close(done)
		if err := <-got; !errors.Is(err, ErrStopped) {
			t.Fatalf("got %v, want ErrStopped", err)
		}
	})
}

func TestBucketSharesBetweenWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBucket(100 << 10)
		counts := make([]int, 4)
		done := make(chan struct{})
		finished := make(chan struct{})
		for i := range counts {
			go func() {
				defer func() { finished <- struct{}{} }()
				for b.Take(4<<10, done) == nil {
					counts[i] += 4 << 10
				}
			}()
		}
		time.Sleep(20 * time.Second)
		close(done)
		var sum int
		for range counts {
			<-finished
		}
		for _, c := range counts {
			sum += c
			if c == 0 {
				t.Fatalf("a waiter starved: %v", counts)
			}
		}
		if sum < 1900<<10 || sum > 2100<<10 {
			t.Fatalf("moved %d bytes in 20 s at 100 KiB/s", sum)
		}
	})
}
