package server_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"boxd/internal/fleet/fleettest"
	"boxd/internal/fleet/registry"
)

// newSingle is one fleetd with everything in it, as a process that can be killed, with its files in fleet.
func newSingle(t *testing.T, fleet string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), procs: map[string]*exec.Cmd{}, args: map[string][]string{}}
	c.bin = filepath.Join(c.dir, "fleetd")
	if out, err := exec.Command("go", "build", "-o", c.bin, "boxd/cmd/fleetd").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	listen, mqtt, api := fleettest.FreeAddr(t), fleettest.FreeAddr(t), fleettest.FreeAddr(t)
	c.args["f1"] = []string{
		"serve", "--dir", fleet, "--fleet", "home", "--listen", listen, "--mqtt", mqtt, "--api", api, "--host", "127.0.0.1",
	}
	c.brokers, c.apis = []string{"tls://" + mqtt}, []string{"http://" + api, "http://" + api}
	c.start("f1")
	t.Cleanup(func() {
		c.kill("f1")
		if t.Failed() {
			data, _ := os.ReadFile(filepath.Join(c.dir, "f1.log"))
			t.Logf("fleetd:\n%s", data[max(0, len(data)-6000):])
		}
	})
	fleettest.Until(t, time.Minute, "fleetd is ready", func() bool { return ready(api0(c)) })
	c.loadCA(fleet)
	token, err := os.ReadFile(filepath.Join(fleet, "api-token"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "fleet"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "fleet", "api-token"), token, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func api0(c *cluster) string { return c.apis[0] }

func allConnected(boxes []*clusterBox) bool {
	for _, b := range boxes {
		if !b.mg.Status().Connected {
			return false
		}
	}
	return true
}

func outboxesEmpty(boxes []*clusterBox) bool {
	for _, b := range boxes {
		if b.mg.Status().Outbox > 0 {
			return false
		}
	}
	return true
}

// load gives every box two assets a second until stop is called.
func load(boxes []*clusterBox) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				for i, b := range boxes {
					b.arrive(i)
				}
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

// One machine has broker, store and manager in one process. It is killed with -9 under load, twice.
func TestFleetdMayBeKilled(t *testing.T) {
	const n = 8
	c := newSingle(t, filepath.Join(t.TempDir(), "fleet"))
	var boxes []*clusterBox
	for i := range n {
		boxes = append(boxes, c.startBox(i))
	}
	fleettest.Until(t, time.Minute, "all boxes are connected", func() bool { return allConnected(boxes) })
	m := c.manager(0)
	fleettest.Until(t, time.Minute, "the registry knows all boxes", func() bool {
		var list []registry.Box
		m.must(t, http.MethodGet, "/api/v1/boxes?brief=true", nil, &list)
		return len(list) == n
	})
	stop := load(boxes)
	var cmds []string
	for round := range 2 {
		var cmd struct{ ID string }
		m.must(t, http.MethodPost, "/api/v1/commands", map[string]any{"target": "group:default", "name": "refresh"}, &cmd)
		cmds = append(cmds, cmd.ID)
		m.must(t, http.MethodPut, "/api/v1/config/group:default", map[string]any{"wan_down": 1000 + round}, nil)
		fleettest.Until(t, 30*time.Second, "some load has passed", func() bool {
			return len(boxes[0].Report().Holdings) > 4*(round+1)
		})
		c.kill("f1")
		killed := time.Now()
		fleettest.Until(t, 30*time.Second, "the boxes notice", func() bool { return !boxes[0].mg.Status().Connected })
		c.start("f1")
		fleettest.Until(t, time.Minute, "all boxes are back", func() bool { return allConnected(boxes) })
		t.Logf("killed: all boxes back after %.1f s", time.Since(killed).Seconds())
	}
	stop()
	fleettest.Until(t, time.Minute, "fleetd is ready again", func() bool { return ready(api0(c)) })
	fleettest.Until(t, time.Minute, "all outboxes are empty", func() bool { return outboxesEmpty(boxes) })
	c.checkProofs(boxes)
	for _, id := range cmds {
		fleettest.Until(t, 90*time.Second, "command "+id+" is answered by all", func() bool {
			var got registry.Command
			m.must(t, http.MethodGet, "/api/v1/commands/"+id, nil, &got)
			return got.Counts["done"] == n
		})
		for _, b := range boxes {
			b.mu.Lock()
			if b.ran[id] != 1 {
				t.Errorf("%s ran %s %d times", b.id, id, b.ran[id])
			}
			b.mu.Unlock()
		}
	}
	fleettest.Until(t, time.Minute, "the wish has converged", func() bool {
		for _, b := range boxes {
			b.mu.Lock()
			v := b.config.WANDown
			b.mu.Unlock()
			if v == nil || *v != 1001 {
				return false
			}
		}
		return true
	})
}

// The manager's disk fills up under load: nothing is acknowledged that is not kept, and when there is room again everything
// goes on by itself.
func TestAFullDiskOfTheManager(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root for a small file system")
	}
	fleet := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(fleet, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", fleet, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(fleet, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := newSingle(t, fleet)
	var boxes []*clusterBox
	for i := range 3 {
		boxes = append(boxes, c.startBox(i))
	}
	fleettest.Until(t, time.Minute, "all boxes are connected", func() bool { return allConnected(boxes) })
	boxes[0].arrive(0)
	fleettest.Until(t, time.Minute, "a proof is delivered", func() bool { return outboxesEmpty(boxes) })

	began := time.Now()
	phase := func(what string) { t.Logf("%s: %.1f s", what, time.Since(began).Seconds()); began = time.Now() }
	filler := filepath.Join(fleet, "filler")
	fill(t, filler)
	stop := load(boxes)
	fleettest.Until(t, time.Minute, "the boxes keep what the manager cannot", func() bool {
		fill(t, filler)
		return boxes[0].mg.Status().Outbox >= 10 && boxes[1].mg.Status().Outbox >= 10
	})
	stop()
	phase("until the boxes keep ten proofs")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	fleettest.Until(t, 3*time.Minute, "all outboxes are empty", func() bool {
		if ended(c.procs["f1"]) { // NATS may stay stuck after a full disk: fleetd ends then
			t.Log("fleetd ended, and is started again, as systemd would")
			c.start("f1")
		}
		return outboxesEmpty(boxes)
	})
	fleettest.Until(t, time.Minute, "fleetd is ready again", func() bool { return ready(api0(c)) })
	phase("until all is delivered")
	c.checkProofs(boxes)
}

// ended reports whether a process has ended; it may not have been waited for.
func ended(cmd *exec.Cmd) bool {
	var st syscall.WaitStatus
	pid, err := syscall.Wait4(cmd.Process.Pid, &st, syscall.WNOHANG, nil)
	return err != nil || pid == cmd.Process.Pid
}

// fill takes what room there is.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for block := make([]byte, size); ; {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
}
