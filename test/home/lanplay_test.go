//go:build linux

package home

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"boxd/internal/netlab"
)

// noLine is the configuration of a box that may not use the access line.
const noLine = "[limits]\nwan_down = \"0\"\nwan_up = \"0\"\nmonthly_wan = \"0\"\n"

// shows is a player that reads 64 KiB from a place on, and compares them with what was published. It says after how long
// the first of them was there.
func (b *box) shows(t *testing.T, m media, at int64) (first time.Duration) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: b.lab.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		fmt.Sprintf("http://127.0.0.1:8480/assets/%s/%s", m.id, filepath.Base(m.file)), nil)
	must(t, err)
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
	begin := time.Now()
	resp, err := client.Do(req)
	for ; err == nil && resp.StatusCode == http.StatusServiceUnavailable && time.Since(begin) < time.Minute; resp, err = client.Do(req) {
		_ = resp.Body.Close() // the box has not heard yet of the campaign, or of who is at home
		time.Sleep(100 * time.Millisecond)
	}
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		t.Fatalf("box %d: %s", b.number, resp.Status)
	}
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	if _, err := io.ReadFull(resp.Body, got[:1]); err != nil {
		t.Fatalf("box %d plays nothing: %v", b.number, err)
	}
	first = time.Since(begin)
	_, err = io.ReadFull(resp.Body, got[1:])
	must(t, err)
	f, err := os.Open(m.file)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(want, at)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("box %d plays wrong bytes", b.number)
	}
	return first
}

// knows waits until boxes know an asset, and have the space for it.
func knows(t *testing.T, m media, boxes ...*box) {
	t.Helper()
	eventually(t, "they know it", time.Minute, func() error {
		for _, b := range boxes {
			if a := b.asset(m.id); a.Length == 0 || a.State == "" {
				return fmt.Errorf("box %d does not", b.number)
			}
		}
		return nil
	})
}

// carrier is the box that got bytes of an asset over the access line, and how many all got.
func carrier(boxes []*box, m media) (most *box, all int64) {
	var best int64
	for _, b := range boxes {
		n := b.asset(m.id).Bytes.WAN()
		if all += n; n > best {
			best, most = n, b
		}
	}
	return most, all
}

// TestPlayInTheHome: what a box plays that another has, or that only another may fetch, or that another is too slow to.
func TestPlayInTheHome(t *testing.T) {
	s := newSetup(t, netlab.HomeConfig{Boxes: 4, Line: playLine})
	two, mute, small := s.boxes[:2], s.boxes[2], s.boxes[3]
	mute.configure(noLine)
	small.configure(noLine)
	small.change(`quota = "8GiB"`, `quota = "16MiB"`)
	for _, b := range s.boxes[:3] {
		b.start()
	}
	atHome(t, s.boxes[:3])

	// Nobody may fetch before the evening, and the box that plays may not at all: another does, and only what is played.
	film := s.publish("film.bin", 24*mib)
	s.evening("film", film.id)
	knows(t, film, s.boxes[:3]...)
	first := mute.shows(t, film, 12*mib)
	var who *box
	var all int64
	eventually(t, "the boxes have counted it", time.Minute, func() error {
		if who, all = carrier(s.boxes, film); who == nil || mute.asset(film.id).Bytes.LAN == 0 {
			return fmt.Errorf("%d bytes came; the player's box got %+v", all, mute.asset(film.id).Bytes)
		}
		return nil
	})
	if who == mute {
		t.Errorf("it used the access line: %+v", mute.asset(film.id).Bytes)
	}
	t.Logf("RESULT a player whose box may not fetch: first byte after %d ms, by box %d, %d KiB over the line", first.Milliseconds(),
		who.number, all>>10)
	if all > film.size/2 {
		t.Errorf("%d bytes came for a player that read 64 KiB", all)
	}

	// The courier is on its way: a player elsewhere has it fetch something else first.
	second := s.publish("second.bin", 24*mib)
	got := s.measure(func() {
		s.campaign("second", second)
		first = mute.shows(t, second, gapOf(t, courierOf(t, two, second, 0.02), second))
		ready(t, 2*time.Minute, s.boxes[:3], second)
	})
	copies := float64(got.down) / float64(second.size)
	t.Logf("RESULT a player beside a courier on its way: first byte after %d ms; %.3f copies", first.Milliseconds(), copies)
	if copies > 1.25 {
		t.Errorf("%.3f copies crossed the line", copies)
	}

	// Without room for any of it a box plays from another, and keeps nothing.
	wan := s.home.Line.Counters()
	small.start()
	atHome(t, s.boxes)
	eventually(t, "it knows who has what", time.Minute, func() error {
		st, err := small.status()
		if err == nil && (len(st.Home) != 3 || st.Home[0].Holds == 0) {
			err = fmt.Errorf("it does not: %+v", st.Home)
		}
		return err
	})
	knows(t, second, small)
	first = small.shows(t, second, 7*mib)
	a := small.asset(second.id)
	t.Logf("RESULT a player whose box has no room: first byte after %d ms; %d bytes are kept", first.Milliseconds(), a.Verified)
	if a.Verified != 0 || a.Bytes.WAN() != 0 {
		t.Errorf("it keeps %d bytes and got %+v", a.Verified, a.Bytes)
	}
	if n := s.home.Line.Counters().Sub(wan).Down.Bytes; n > 4*mib {
		t.Errorf("%d bytes came over the line", n)
	}

	// The courier's own way is hardly one: the other helps itself.
	mute.kill()
	third := s.publish("third.bin", 24*mib)
	s.campaign("third", third)
	slow := courierOf(t, two, third, 0.02)
	must(t, slow.lab.LimitWAN(2000))
	other := without(two, slow)[0]
	first = other.shows(t, third, gapOf(t, slow, third))
	eventually(t, "the player's box has fetched it itself", time.Minute, func() error {
		if b := other.asset(third.id).Bytes; b.WAN() == 0 {
			return fmt.Errorf("it got %+v", b)
		}
		return nil
	})
	t.Logf("RESULT a player beside a courier without a line: first byte after %d ms", first.Milliseconds())
	must(t, slow.lab.LimitWAN(0))

	// A box that comes later plays at once what the home has, with its own disk still empty.
	ready(t, 2*time.Minute, two, third)
	mute.start()
	knows(t, third, mute)
	first = mute.shows(t, third, 20*mib)
	a = mute.asset(third.id)
	t.Logf("RESULT a player on a box that has just come: first byte after %d ms", first.Milliseconds())
	if a.Bytes.WAN() != 0 {
		t.Errorf("it got %+v", a.Bytes)
	}
}

// gapOf is a place in the middle of the longest stretch of an asset of which the box has nothing.
func gapOf(t *testing.T, b *box, m media) (at int64) {
	t.Helper()
	blob := b.blob(t, m)
	defer blob.Close()
	const block = 64 << 10
	var longest, run int64
	buf, zero := make([]byte, block), make([]byte, block)
	for off := int64(0); off+block <= m.size; off += block {
		_, err := blob.ReadAt(buf, off)
		must(t, err)
		if run += block; !bytes.Equal(buf, zero) {
			run = 0
		}
		if run > longest {
			longest, at = run, off+block-run/2
		}
	}
	if longest < mib {
		t.Fatalf("box %d lacks no more than %d bytes in a row", b.number, longest)
	}
	return at
}
