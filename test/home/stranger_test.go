//go:build linux

package home

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"boxd/internal/control"
)

// stranger is a host of the home without a certificate: it tries every port of a box and then all it can think of on the
// open ones.
func (s *setup) stranger(t *testing.T, b *box, m media) {
	t.Helper()
	before, err := b.status()
	must(t, err)
	host := s.home.Router
	var open []int
	must(t, host.Do(func() error { // one thread, and a closed port answers at once
		for port := 1; port <= 65535; port++ {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", b.lab.IP, port), time.Second)
			if err == nil {
				_ = c.Close()
				open = append(open, port)
			}
		}
		return nil
	}))
	if !slices.Equal(open, []int{6880}) {
		t.Errorf("open to the home: %v, want 6880 only", open)
	}
	at := fmt.Sprintf("%s:6880", b.lab.IP)
	var wg sync.WaitGroup
	for name, say := range map[string]string{
		"http":       "GET /assets/" + m.id + "/film.bin HTTP/1.0\r\n\r\n",
		"bittorrent": "\x13BitTorrent protocol\x00\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("A", 40),
		"nothing":    "",
		"a flood":    strings.Repeat("\x16\x03\x01\xff\xff", 20_000),
	} {
		c, err := host.Dial(t.Context(), "tcp", at)
		must(t, err)
		wg.Go(func() {
			_ = c.SetDeadline(time.Now().Add(12 * time.Second))
			go func() { _, _ = io.WriteString(c, say) }()
			got, _ := io.ReadAll(io.LimitReader(c, 1<<20))
			if len(got) > 64 { // a TLS alert is 7 bytes
				t.Errorf("%s: a stranger read %d bytes: %.80q", name, len(got), got)
			}
			_ = c.Close()
		})
	}
	for _, alpn := range []string{"boxd-swarm/1", "boxd-home/1", "boxd-read/1", "h2", ""} {
		raw, err := host.Dial(t.Context(), "tcp", at)
		must(t, err)
		cfg := &tls.Config{InsecureSkipVerify: true, ServerName: m.id + ".boxd"} //nolint:gosec // a stranger does not care
		if alpn != "" {
			cfg.NextProtos = []string{alpn}
		}
		c := tls.Client(raw, cfg)
		_ = c.SetDeadline(time.Now().Add(12 * time.Second))
		got, err := io.ReadAll(io.LimitReader(c, 1<<20))
		if len(got) > 0 || err == nil {
			t.Errorf("%s without a certificate: read %q, %v", alpn, got, err)
		}
		_ = raw.Close()
	}
	var held []net.Conn
	for range 500 {
		c, err := host.Dial(t.Context(), "tcp", at)
		if err != nil {
			break
		}
		held = append(held, c)
	}
	during, err := b.status()
	must(t, err)
	for _, c := range held {
		_ = c.Close()
	}
	if grew := during.Process.RSS - before.Process.RSS; grew > 16*mib {
		t.Errorf("500 idle connections grew the box by %d bytes", grew)
	}
	t.Logf("a stranger: open ports %v, nothing read; %d connections held, memory %+d KiB", open, len(held),
		(during.Process.RSS-before.Process.RSS)>>10)
	wg.Wait()
	if a := b.asset(m.id); a.State != control.Ready {
		t.Errorf("the asset is %s after the stranger", a.State)
	}
}
