package fetch_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/catalog"
	"boxd/internal/fetch"
	"boxd/internal/lan"
)

// loner is the identity of a box that nobody in its home knows.
type loner struct{}

func (loner) BoxID() string                          { return "box-a" }
func (loner) Fleet() string                          { return "acme" }
func (loner) SwarmClient(_, _, _ string) *tls.Config { return nil }
func (loner) Changed() <-chan struct{}               { return nil }
func (loner) Client(context.Context, net.Conn, *tls.Config) (*tls.Conn, error) {
	return nil, net.ErrClosed
}

// silence is a listener to which nobody connects.
type silence struct{}

func (silence) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (silence) Close() error              { return nil }
func (silence) Addr() net.Addr            { return &net.TCPAddr{} }

// toldLAN is a real household, which counts how often the fetcher looked at everything.
type toldLAN struct {
	*lan.LAN
	looks atomic.Int64
}

func (l *toldLAN) SetSelf(s lan.Self) {
	l.looks.Add(1)
	l.LAN.SetSelf(s)
}

// TestIdleInAHomeIsIdle: with the real household, of which a fake may hide what it wakes, a box that waits for its window
// looks when it is told of something, and every few seconds.
func TestIdleInAHomeIsIdle(t *testing.T) {
	aDay(t, "2026-03-02 12:00", func(t *testing.T, d *day) {
		var films []asset.ID
		for i := range 8 {
			films = append(films, d.publish(fmt.Sprintf("%c-film", 'a'+i), 4<<10))
		}
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("13:00", "15:00", -1)}}, films...)
		l, err := lan.New(lan.Options{Identity: loner{}, Listener: silence{}, Port: 1})
		if err != nil {
			t.Fatal(err)
		}
		home := &toldLAN{LAN: l}
		d.home = home
		d.start(fetch.Limits{})
		before := home.looks.Load()
		d.wait(10 * time.Minute)
		if n := home.looks.Load() - before; n > 100 {
			t.Errorf("looked %d times in ten idle minutes", n)
		}
		more := d.publish("z-film", 4<<10)
		d.campaign("more", catalog.Campaign{Windows: []catalog.Window{hm("13:00", "15:00", -1)}}, more)
		d.announce()
		d.wait(100 * time.Millisecond)
		d.asset(more) // at once, it was told of it
	})
}

// What was withdrawn and cannot be erased is tried again later and later: each try wakes the fetcher itself.
func TestWithdrawnThatStaysIsTriedLessAndLess(t *testing.T) {
	aDay(t, "2026-03-02 12:00", func(t *testing.T, d *day) {
		film := d.publish("film", 64<<10)
		d.campaign("now", catalog.Campaign{}, film)
		d.start(fetch.Limits{})
		d.wait(time.Minute)
		if s := d.asset(film).State; s != fetch.Ready {
			t.Fatalf("it is %s", s)
		}
		tried := func(change error) int {
			d.cache.mu.Lock()
			defer d.cache.mu.Unlock()
			d.cache.stuck = change
			return d.cache.removes
		}
		tried(syscall.EROFS)
		d.paper.set(&catalog.Snapshot{
			Version: 2, Expires: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), Withdrawn: []asset.ID{film},
		})
		d.wait(time.Hour)
		n := tried(nil)
		if n < 8 || n > 20 {
			t.Errorf("tried %d times in an hour", n)
		}
		d.wait(11 * time.Minute)
		if _, here := d.cache.Asset(film); here {
			t.Error("it is here when the disk lets it go")
		}
	})
}

// Where the cache takes its time for each of many assets that are wanted at once, the fetcher still answers: the watchdog asks,
// and players do.
func TestManyAssetsThatTakeLongToReserve(t *testing.T) {
	aDay(t, "2026-03-02 12:00", func(t *testing.T, d *day) {
		const many = 45
		var films []asset.ID
		for i := range many {
			films = append(films, d.publish(strings.Repeat("x", i+1), 4<<10))
		}
		d.campaign("night", catalog.Campaign{Windows: []catalog.Window{hm("13:00", "15:00", -1)}}, films...)
		d.cache.slow = 2 * time.Second
		d.start(fetch.Limits{})
		for d.cache.created() < many {
			asked := time.Now()
			if !d.Alive(t.Context()) {
				t.Fatal("it has ended")
			}
			if took := time.Since(asked); took > 3*time.Second {
				t.Fatalf("it answers after %v", took)
			}
			d.wait(time.Second)
		}
		for _, id := range films {
			if s := d.asset(id); s.State != fetch.Accepted {
				t.Errorf("%s is %s", id.Short(), s.State)
			}
		}
	})
}
