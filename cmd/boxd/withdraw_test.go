package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/control"
	"boxd/internal/fleet/repo"
	"boxd/internal/remote"
)

// TestAWithdrawnAssetIsNotPlayedOn withdraws a film that is pinned, while a player plays it.
func TestAWithdrawnAssetIsNotPlayedOn(t *testing.T) {
	f := newFleet(t)
	port := freePort(t)
	box := f.box("one", "[swarm]\nlisten = \"127.0.0.1:"+port+"\"\n").start()
	file, data := mediaFile(t, "film.mp4", 48<<20)
	id := f.publish(file, "The Film", nil)
	s := box.has(id, 120*time.Second)
	if out, code := box.boxd("pin", id.String()); code != 0 {
		t.Fatal(out)
	}
	a, _ := s.Asset(id.String())
	url := s.Box.HTTP + a.Files[0].URL
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	player, err := http.DefaultClient.Do(req)
	must(t, err)
	defer player.Body.Close()
	_, err = io.ReadFull(player.Body, make([]byte, 1<<10))
	must(t, err)
	neighbour := f.neighbour(s.Box.ID, "127.0.0.1:"+port)
	if code := neighbour(id); code != http.StatusOK {
		t.Fatalf("a box of the home that plays it from here: %d", code)
	}
	must(t, f.repo.Update(func(tx *repo.Tx) error { return tx.Withdraw(id) }))
	box.until("ends the playout", 30*time.Second, func(*control.Snapshot) bool {
		return strings.Contains(box.log.String(), "playout of a withdrawn asset ends")
	})
	if code := neighbour(id); code != http.StatusNotFound {
		t.Errorf("a box of the home still plays it from here: %d", code)
	}
	if resp, _ := box.get(url); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the next player: %s", resp.Status)
	}
	if n, err := io.Copy(io.Discard, player.Body); err == nil {
		t.Errorf("the player got all of it: %d bytes of %d", n+1<<10, len(data))
	}
	box.until("is erased", 30*time.Second, func(s *control.Snapshot) bool {
		_, ok := s.Asset(id.String())
		return !ok && s.Cache.Used == 0
	})
}

// neighbour returns what asks a box for the first piece of an asset, as another box of the home does that plays it from
// there.
func (f *testFleet) neighbour(box, addr string) func(asset.ID) int {
	other := f.ids.Box("other", "home")
	return func(id asset.ID) int {
		f.t.Helper()
		tr := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return other.Client(ctx, raw, other.SwarmClient(box, "read.boxd", remote.ALPN))
		}}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "https://"+box+"/"+id.String()+"/0", nil)
		must(f.t, err)
		resp, err := (&http.Client{Transport: tr}).Do(req)
		must(f.t, err)
		must(f.t, resp.Body.Close())
		return resp.StatusCode
	}
}
