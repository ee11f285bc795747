//go:build linux

package portmap

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"boxd/internal/netlab"
)

// TestMain plays the mapper of a box, in its network namespace, until its standard input ends: it says which port is mapped.
func TestMain(m *testing.M) {
	if os.Getenv("PORTMAP_ROLE") == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	mapper := &Mapper{
		Port: 6880, Name: os.Getenv("PORTMAP_ROLE"), IPv6: os.Getenv("PORTMAP_IPV6") != "",
		Changed: func(m Mapping) { fmt.Printf("%s %d %v\n", m.Protocol, m.External, m.Err) },
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if err := mapper.Run(ctx); err != nil {
		fmt.Println(err)
	}
}

// inBox runs the mapper of a box; end gives the mapping back.
func inBox(t *testing.T, b *netlab.Box, name string, env ...string) (protocol string, port int, end func()) {
	t.Helper()
	cmd := b.Command(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), "PORTMAP_ROLE="+name), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 1000)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(line[:n]), &protocol, &port); err != nil {
		t.Fatalf("%q: %v", line[:n], err)
	}
	return protocol, port, func() { _ = in.Close(); _ = cmd.Wait() }
}

// TestRouters asks Debian's miniupnpd, as a router of a home, for ports of two boxes that both listen on 6880, and
// connects to them from the WAN.
func TestRouters(t *testing.T) {
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{
		{Boxes: 2, Maps: netlab.UPnP}, {Boxes: 2, Maps: netlab.NATPMP},
	}})
	for i, want := range []string{"UPnP", "PCP"} {
		used := map[int]bool{}
		for n, b := range lab.Homes[i].Boxes {
			name := fmt.Sprintf("box-%d", n)
			ln, err := b.Listen("tcp", ":6880")
			if err != nil {
				t.Fatal(err)
			}
			go answer(ln, name)
			protocol, port, end := inBox(t, b, name)
			if protocol != want || used[port] {
				t.Fatalf("home %d: %s %d", i, protocol, port)
			}
			used[port] = true
			outside := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, byte(i), 2}), uint16(port))
			if got := ask(t, lab, outside); got != name {
				t.Errorf("home %d: %s answers as %q instead of %s", i, outside, got, name)
			}
			defer func() {
				end()
				if got := ask(t, lab, outside); got != "" {
					t.Errorf("%s is still open after %s has left: %s answers", outside, name, got)
				}
				_ = ln.Close()
			}()
		}
	}
}

// TestPinholes has the same routers let others in to public IPv6 addresses, by PCP.
func TestPinholes(t *testing.T) {
	lab := netlab.Start(t, netlab.Config{Homes: []netlab.HomeConfig{{Boxes: 2, Maps: netlab.NATPMP, Net6: true}}})
	for n, b := range lab.Homes[0].Boxes {
		name := fmt.Sprintf("box-%d", n)
		ln, err := b.Listen("tcp", ":6880")
		if err != nil {
			t.Fatal(err)
		}
		go answer(ln, name)
		at := netip.AddrPortFrom(b.IP6, 6880)
		if got := ask(t, lab, at); got != "" {
			t.Fatalf("%s is open before anybody asked: %s answers", at, got)
		}
		protocol, port, end := inBox(t, b, name, "PORTMAP_IPV6=1")
		if protocol != "PCP" || port != 6880 {
			t.Fatalf("%s %d", protocol, port)
		}
		if got := ask(t, lab, at); got != name {
			t.Errorf("%s answers as %q instead of %s", at, got, name)
		}
		defer func() {
			end()
			if got := ask(t, lab, at); got != "" {
				t.Errorf("%s is still open after %s has left: %s answers", at, name, got)
			}
			_ = ln.Close()
		}()
	}
}

func answer(ln net.Listener, name string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, name)
		_ = c.Close()
	}
}

// ask returns what answers from outside; nothing when nobody does.
func ask(t *testing.T, lab *netlab.Lab, to netip.AddrPort) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c, err := lab.WAN.Dial(ctx, "tcp", to.String())
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	b, _ := io.ReadAll(c)
	return strings.TrimSpace(string(b))
}
