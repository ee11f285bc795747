//go:build linux

package home

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"boxd/internal/control"
	"boxd/internal/netlab"
)

// TestRogue: a box with a valid certificate gives out wrong bytes, because somebody has turned them over on its disk under
// it. Who asks it for pieces bans it and gets the asset from others, or, where there are none, over the line. Once it is
// revoked its certificate opens nothing.
func TestRogue(t *testing.T) {
	s := newSetup(t, netlab.HomeConfig{Boxes: 4, Line: line})
	honest, rogue, late, last := s.boxes[0], s.boxes[1], s.boxes[2], s.boxes[3]
	honest.start()
	rogue.start()
	film := s.publish("film.bin", 24*mib)
	s.campaign("film", film)
	ready(t, 2*time.Minute, s.boxes[:2], film)
	rogue.spoil(film)

	const most = 8e6
	late.configure("[limits]\nlan = \"50kB/s\"\n") // it would take minutes
	got := s.measure(func() {
		late.start()
		eventually(t, "the first bytes", 2*time.Minute, func() error {
			if late.asset(film.id).Bytes.LAN == 0 {
				return errors.New("nothing yet")
			}
			return nil
		})
		late.change("50kB/s", "8MB/s")
		late.signal(syscall.SIGHUP)
		ready(t, 2*time.Minute, []*box{late}, film)
	})
	if rate := float64(film.size) / got.took.Seconds(); rate > 1.1*most {
		t.Errorf("%.1f MB/s within the home, capped at 8", rate/1e6)
	}
	late.played(film)
	honest.played(film)
	st, err := late.status()
	must(t, err)
	eventually(t, "the rogue is banned", 2*time.Minute, func() error {
		if !late.logged("a peer is banned\" part=swarm box=" + s.boxID(t, rogue)) {
			return fmt.Errorf("nothing in the log")
		}
		return nil
	})
	t.Logf("beside a rogue: %+v in %.1f s at 8 MB/s, %d KiB over the line", late.asset(film.id).Bytes, got.took.Seconds(),
		got.down>>10)
	for _, b := range []*box{honest, late} {
		if b.logged("a peer is banned\" part=swarm box=" + s.boxID(t, honest)) {
			t.Error("an honest box was banned")
		}
	}
	if len(st.Home) != 2 {
		t.Errorf("the home of the box that was sent wrong bytes: %+v", st.Home)
	}

	if os.Getenv("HOME_BENCH_RUN") != "" { // nobody but the rogue: takes the household's 30 s of patience
		honest.kill()
		late.kill()
		last.start()
		alone := s.measure(func() { ready(t, 2*time.Minute, []*box{last}, film) })
		last.played(film)
		t.Logf("with nobody but the rogue: %v, %+v", alone.took.Round(time.Second), last.asset(film.id).Bytes)
		honest.start()
		late.start()
		ready(t, time.Minute, []*box{honest, late}, film)
	}

	// A certificate that has been stolen with a box, and revoked.
	pem, err := os.ReadFile(filepath.Join(rogue.dir, "state", "identity", "identity.pem"))
	must(t, err)
	cert, err := tls.X509KeyPair(pem, pem)
	must(t, err)
	eventually(t, "a valid certificate is let in", 2*time.Minute, func() error {
		if !s.knock(t, honest, film, cert) {
			return errors.New("it was refused, or the box was slow: the test shows nothing")
		}
		return nil
	})
	s.fleet.run(nil, "boxes", "revoke", s.boxID(t, rogue), "--why", "sends wrong bytes")
	eventually(t, "the revoked box is no neighbour any more", 2*time.Minute, func() error {
		st, err := honest.status()
		if err != nil {
			return err
		}
		for _, n := range st.Home {
			if n.Address == rogue.lab.IP.String()+":6880" {
				return fmt.Errorf("it still is: %+v", n)
			}
		}
		return nil
	})
	if s.knock(t, honest, film, cert) {
		t.Error("a revoked certificate was let in")
	}
	st, err = honest.status()
	must(t, err)
	t.Logf("after the revocation: %+v", st.Strangers)
	if st.Strangers.Revoked == 0 {
		t.Error("it was not counted")
	}
	if a := honest.asset(film.id); a.State != control.Ready {
		t.Errorf("the asset of the honest box is %s", a.State)
	}
}

// spoil turns over what a box has on its disk, while it runs.
func (b *box) spoil(m media) {
	b.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(b.dir, "cache", "assets", m.id+".*.blob"))
	must(b.t, err)
	if len(blobs) != 1 {
		b.t.Fatalf("blobs of %s: %v", m.id, blobs)
	}
	f, err := os.OpenFile(blobs[0], os.O_WRONLY, 0)
	must(b.t, err)
	defer f.Close()
	junk := make([]byte, 4096)
	for off := int64(0); off < m.size; off += 64 << 10 {
		_, _ = rand.Read(junk)
		_, err := f.WriteAt(junk, off)
		must(b.t, err)
	}
}

func (b *box) logged(what string) bool {
	b.t.Helper()
	text, err := os.ReadFile(b.dir + "/log")
	must(b.t, err)
	return bytes.Contains(text, []byte(what))
}

func (s *setup) boxID(t *testing.T, b *box) string {
	t.Helper()
	st, err := b.status()
	must(t, err)
	return st.Box.ID
}

// knock tries all protocols of a box from another host of the home and reports whether any said or let say anything.
func (s *setup) knock(t *testing.T, b *box, m media, cert tls.Certificate) (in bool) {
	t.Helper()
	for alpn, say := range map[string]string{
		"boxd-read/1":  "GET /" + m.id + "/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"boxd-home/1":  "",
		"boxd-swarm/1": "\x13BitTorrent protocol\x00\x00\x00\x00\x00\x10\x00\x00",
	} {
		raw, err := s.home.Router.Dial(t.Context(), "tcp", b.lab.IP.String()+":6880")
		must(t, err)
		c := tls.Client(raw, &tls.Config{
			InsecureSkipVerify: true, ServerName: m.id + ".boxd", NextProtos: []string{alpn}, //nolint:gosec // as above
			Certificates: []tls.Certificate{cert},
		})
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		_, _ = io.WriteString(c, say)
		got, _ := io.ReadAll(io.LimitReader(c, 1<<20))
		in = in || len(got) > 0
		_ = raw.Close()
	}
	return in
}
