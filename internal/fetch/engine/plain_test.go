package engine

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"boxd/internal/asset"
)

// plainBox is an engine of a test fleet without transport security, beside which TLS is still served.
func plainBox(t *testing.T, change func(*Options)) (*box, *Split) {
	t.Helper()
	return plainBoxAt(t, "127.0.0.1:0", change)
}

func plainBoxAt(t *testing.T, addr string, change func(*Options)) (*box, *Split) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSplit(l)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b := newFleet(t).box(t, "box-plain", func(o *Options) {
		_ = o.Listener.Close()
		o.ClientTLS, o.PeerOf, o.Listener = nil, nil, s.Plain()
		if change != nil {
			change(o)
		}
	})
	b.addr = netip.MustParseAddrPort(l.Addr().String())
	return b, s
}

func TestPlainTransferLoadsWhatADiallerNames(t *testing.T) {
	data := content(2<<20 + 99)
	tor := makeTorrent(t, "film", data, 128<<10)
	src, dst := newStore(t, tor, data), newStore(t, tor, nil)
	var a *box
	asked := make(chan asset.ID, 1)
	a, split := plainBox(t, func(o *Options) {
		o.Lazy = func(_ context.Context, id asset.ID) bool {
			asked <- id
			return a.Load(src, seed, nil) == nil
		}
	})
	b, _ := plainBox(t, nil)
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	b.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
	b.AddPeers(dst.info.ID, Peer{Addr: a.addr})
	dst.wait(t, dst.info.NumPieces())
	if !dst.equal(data) {
		t.Fatal("wrong bytes")
	}
	if id := <-asked; id != dst.info.ID {
		t.Fatalf("asked to load %s", id)
	}
	st, _ := a.Stats(dst.info.ID)
	if st.Sent[WAN] < dst.info.Length-128<<10 { // what is being written is not counted yet
		t.Errorf("the sender counts %+v for %d bytes", st, dst.info.Length)
	}
	// The same port still answers TLS.
	go func() {
		nc, err := tls.Dial("tcp", a.addr.String(), &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) //nolint:gosec // it is refused
		if err == nil {
			_ = nc.Close()
		}
	}()
	nc, err := split.TLS().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(nc, first); err != nil || first[0] != tlsHandshake {
		t.Fatalf("read %v, %v", first, err)
	}
}

func TestPeersOverIPv6(t *testing.T) {
	data := content(1<<20 + 7)
	tor := makeTorrent(t, "film", data, 128<<10)
	dst := newStore(t, tor, nil)
	a, _ := plainBoxAt(t, "[::1]:0", nil)
	if err := a.Load(newStore(t, tor, data), seed, nil); err != nil {
		t.Fatal(err)
	}
	b, _ := plainBox(t, nil)
	if err := b.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	b.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
	b.AddPeers(dst.info.ID, Peer{Addr: a.addr})
	dst.wait(t, dst.info.NumPieces())
	st, _ := a.Stats(dst.info.ID)
	if !dst.equal(data) || len(st.Boxes) != 1 || !netip.MustParseAddrPort(st.Boxes[0].Box).Addr().Is6() {
		t.Fatalf("%+v", st)
	}
}

func TestAPlainDiallerThatSpeaksSomethingElseIsRefused(t *testing.T) {
	a, _ := plainBox(t, nil)
	for _, hello := range []string{
		"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + string(make([]byte, 40)),
		plainName + string(make([]byte, 60)), // a torrent that nobody has
	} {
		nc, err := net.Dial("tcp", a.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%q was answered", hello[:20])
		}
		_ = nc.Close()
	}
}

func TestBansAndWhatTheyRememberAreBounded(t *testing.T) {
	b := newBans()
	now := time.Now()
	name := func(i int) string { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String() }
	was := map[string]int{}
	for i := range 5 * maxBans {
		was[name(i)] = b.generation(name(i))
		b.add(name(i), now)
		if b.generation(name(i)) == was[name(i)] {
			t.Fatalf("%s keeps the address that is banned for ever", name(i))
		}
		now = now.Add(time.Millisecond)
	}
	if len(b.by) > maxBans || len(b.gen) > maxBans {
		t.Errorf("%d bans and %d generations are kept", len(b.by), len(b.gen))
	}
	if last := name(5*maxBans - 1); !b.has(last, now) {
		t.Error("the latest ban was forgotten")
	}
	for n, g := range was {
		if b.generation(n) == g {
			t.Fatalf("%s got the address back that was banned", n)
		}
	}
}

func TestCloseBoxEndsTheLANConnectionsOfOneBox(t *testing.T) {
	f := newFleet(t)
	tor := makeTorrent(t, "film", content(1<<20), 128<<10)
	isLAN := func(o *Options) { o.IsLAN = func(netip.Addr) bool { return true } }
	dst := newStore(t, tor, nil)
	c := f.box(t, "box-c", isLAN)
	if err := c.Load(dst, leech, nil); err != nil {
		t.Fatal(err)
	}
	c.SetPriorities(dst.info.ID, all(Mine, dst.info.NumPieces()))
	for _, name := range []string{"box-a", "box-b"} {
		b := f.box(t, name, isLAN)
		if err := b.Load(newStore(t, tor, nil), leech, nil); err != nil {
			t.Fatal(err)
		}
		c.AddPeers(dst.info.ID, Peer{Box: name, Addr: b.addr}) // it has nothing: they stay connected
	}
	connected := func(want map[string]bool) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		have := map[string]bool{}
		for x := range c.conns {
			have[x.remote.box] = true
		}
		for n, is := range want {
			if have[n] != is {
				return false
			}
		}
		return true
	}
	until := func(want map[string]bool) {
		for {
			ch := c.Changed()
			if connected(want) {
				return
			}
			<-ch
		}
	}
	until(map[string]bool{"box-a": true, "box-b": true})
	c.CloseBox("box-a")
	until(map[string]bool{"box-a": false, "box-b": true})
}

// Connections that say nothing are bounded.
func TestSilentPlainDiallersAreBounded(t *testing.T) {
	b, _ := plainBox(t, nil)
	const more = 6
	closed := make(chan struct{}, maxGreeted+more)
	for range maxGreeted + more {
		c, err := net.Dial("tcp", b.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write([]byte(plainName[:1])); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = c.Read(make([]byte, 1))
			closed <- struct{}{}
		}()
	}
	late := time.After(8 * time.Second) // they may say nothing for 10
	for i := range more {
		select {
		case <-closed:
		case <-late:
			t.Fatalf("only %d of %d too many were closed", i, more)
		}
	}
}
