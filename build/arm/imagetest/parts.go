package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// status is what the test reads of `boxd status --json`.
type status struct {
	Box struct {
		ID string `json:"id"`
	} `json:"box"`
	Assets []struct {
		ID     string `json:"id"`
		State  string `json:"state"`
		Role   string `json:"role"`
		Why    string `json:"why"`
		Length int64  `json:"length"`
		Bytes  struct {
			LAN    int64 `json:"lan"`
			Peer   int64 `json:"peer"`
			Origin int64 `json:"origin"`
		} `json:"bytes"`
	} `json:"assets"`
	Health []struct {
		Code string `json:"code"`
		Text string `json:"text"`
	} `json:"health"`
}

func (g *guest) status(ctx context.Context) (s status, err error) {
	out, err := g.run(ctx, "boxd status --json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("%s: boxd status --json printed %.300q: %w", g.name, out, err)
	}
	return s, nil
}

// holds waits until an asset is ready on the box.
func (g *guest) holds(ctx context.Context, id string, limit time.Duration) error {
	return g.until(ctx, "asset "+id[:8]+" is ready", limit, func(ctx context.Context) error {
		s, err := g.status(ctx)
		if err != nil {
			return err
		}
		for _, a := range s.Assets {
			if a.ID == id {
				if a.State == "ready" {
					return nil
				}
				return fmt.Errorf("%s: %s; health %v", a.State, a.Why, s.Health)
			}
		}
		return fmt.Errorf("not known yet; health %v", s.Health)
	})
}

// ready waits until boxd is up and says when that was, in seconds since the guest's kernel started.
func (g *guest) ready(ctx context.Context) (seconds float64, err error) {
	err = g.until(ctx, "boxd is up", 4*time.Minute, func(ctx context.Context) error {
		out, err := g.run(ctx, "systemctl show boxd -P ActiveState -P ActiveEnterTimestampMonotonic")
		if err != nil {
			return err
		}
		var state string
		var us float64
		if _, err := fmt.Sscan(out, &state, &us); err != nil {
			return fmt.Errorf("%q: %w", out, err)
		}
		if state != "active" {
			return errors.New(state)
		}
		seconds = us / 1e6
		return nil
	})
	return seconds, err
}

// guests describes the two boxes.
func (t *test) guests() {
	for name, at := range guests {
		g := &guest{
			name: name, address: at.address, dir: t.dir, image: t.work, memory: 512, slow: time.Duration(t.slow),
			disk: filepath.Join(t.dir, name+".img"), writeLog: filepath.Join(t.dir, name+".writes"),
		}
		if name == "box-a" {
			t.a = g
		} else {
			t.b = g
		}
	}
}

func (t *test) firstBoot(ctx context.Context) error {
	for _, g := range []*guest{t.a, t.b} {
		if err := copySparse(t.blank(g.name), g.disk); err != nil {
			return err
		}
		if err := os.WriteFile(g.writeLog, nil, 0o644); err != nil {
			return err
		}
	}
	credential, err := t.tokenCredential()
	if err != nil {
		return err
	}
	t.b.kernelArgs = credential
	if err := t.boot(ctx); err != nil {
		return err
	}
	t.b.kernelArgs = ""
	for _, g := range []*guest{t.a, t.b} {
		if err := g.until(ctx, "it is enrolled", 2*time.Minute, func(ctx context.Context) error {
			s, err := g.status(ctx)
			if err == nil && s.Box.ID == "" {
				err = fmt.Errorf("no identity yet; health %v", s.Health)
			}
			return err
		}); err != nil {
			return fmt.Errorf("%w\n%s", err, g.journal(ctx))
		}
		s, err := g.status(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%s: enrolled as %s; %s\n", g.name, s.Box.ID, g.memoryUse(ctx))
	}
	return nil
}

// boot starts both boxes and waits until boxd is up on them.
func (t *test) boot(ctx context.Context) error {
	for _, g := range []*guest{t.a, t.b} { // one after the other, so that the time of each means something
		if err := g.start(); err != nil {
			return err
		}
		if err := g.connect(ctx); err != nil {
			return err
		}
		seconds, err := g.ready(ctx)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, g.lastWords())
		}
		fmt.Printf("%s: boxd READY=1 after %.1f s (kernel start to ready, emulated)\n", g.name, seconds)
		if out, err := g.run(ctx, "systemctl --failed --no-legend; grep -E ' / | /var ' /proc/mounts; boxd-slot status"); err == nil {
			fmt.Println(indent(out))
		}
	}
	return nil
}

func (g *guest) journal(ctx context.Context) string {
	out, _ := g.run(ctx, "journalctl -u boxd --no-pager -n 40 -o cat")
	return out
}

// memoryUse reads boxd's resident memory, its peak, and its control group's.
func (g *guest) memoryUse(ctx context.Context) string {
	out, err := g.run(ctx, "cat /proc/$(systemctl show boxd -P MainPID)/status; "+
		"echo Cgroup: $(($(cat /sys/fs/cgroup/system.slice/boxd.service/memory.current) / 1024)) kB")
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		var name string
		var kib float64
		if _, err := fmt.Sscanf(line, "%s %f kB", &name, &kib); err != nil {
			continue
		}
		switch name {
		case "VmRSS:", "RssAnon:", "VmHWM:", "Cgroup:":
			fmt.Fprintf(&b, "%s %.1f MiB ", name, kib/1024)
		}
	}
	return b.String()
}

func (t *test) fetchAndShare(ctx context.Context) error {
	begin := time.Now()
	for _, id := range []string{t.Film, t.Bulk} {
		for _, g := range []*guest{t.a, t.b} {
			if err := g.holds(ctx, id, 8*time.Minute); err != nil {
				return fmt.Errorf("%w\n%s", err, g.journal(ctx))
			}
		}
	}
	fmt.Printf("both boxes hold both assets after %.0f s\n", time.Since(begin).Seconds())
	for _, g := range []*guest{t.a, t.b} {
		s, err := g.status(ctx)
		if err != nil {
			return err
		}
		for _, a := range s.Assets {
			if g == t.b && a.ID == t.Film && a.Bytes.LAN+a.Bytes.Peer+a.Bytes.Origin > 0 {
				return fmt.Errorf("box-b has the film from the factory and fetched it: %+v", a.Bytes)
			}
			fmt.Printf("%s: %s %s lan %d peer %d origin %d bytes\n", g.name, a.ID[:8], a.State, a.Bytes.LAN, a.Bytes.Peer, a.Bytes.Origin)
		}
		fmt.Printf("%s: %s\n", g.name, g.memoryUse(ctx))
	}
	sent, err := t.fleet.originBytes(ctx, t.Bulk)
	if err != nil {
		return err
	}
	copies := float64(sent) / float64(int64(t.size)<<20)
	fmt.Printf("origin sent %.3f copies of the large asset for two boxes\n", copies)
	if copies > 1.1 {
		return fmt.Errorf("the origin sent %.3f copies into the home", copies)
	}
	for _, id := range []string{t.Film, t.Bulk} {
		if err := t.a.until(ctx, "the fleet manager has both proofs", 2*time.Minute, func(ctx context.Context) error {
			n, err := t.fleet.proofs(ctx, id)
			if err == nil && n < 2 {
				err = fmt.Errorf("%d of 2", n)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// watchdog reloads boxd, then freezes it: systemd must notice that it no longer answers for itself, and start it again.
func (t *test) watchdog(ctx context.Context) error {
	const ask = "systemctl show boxd -P MainPID -P NRestarts -P ActiveState -P Type -P WatchdogUSec"
	before, err := t.b.run(ctx, ask)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(strings.Fields(before), " "))
	if out, err := t.b.run(ctx, "systemctl reload boxd && systemctl show boxd -P MainPID -P NRestarts"); err != nil {
		return err
	} else if now := strings.Fields(out); len(now) != 2 || !slices.Contains(strings.Fields(before), now[0]) || now[1] != "0" {
		return fmt.Errorf("reloading was more than that: %q, before %q", out, before)
	}
	begin := time.Now()
	if _, err := t.b.run(ctx, "systemctl kill --kill-whom=main --signal=STOP boxd"); err != nil {
		return err
	}
	if err := t.b.until(ctx, "systemd has started it again", 4*time.Minute, func(ctx context.Context) error {
		out, err := t.b.run(ctx, "systemctl show boxd -P NRestarts -P ActiveState")
		if err == nil && strings.Join(strings.Fields(out), " ") != "1 active" {
			err = fmt.Errorf("%q", out)
		}
		return err
	}); err != nil {
		return fmt.Errorf("%w\n%s", err, t.b.journal(ctx))
	}
	fmt.Printf("box-b: frozen boxd was up again after %.0f s\n", time.Since(begin).Seconds())
	return t.b.holds(ctx, t.Bulk, time.Minute)
}

// update publishes a root file system as firmware and sees the boxes come up from it, in the other slot.
func (t *test) update(ctx context.Context) error {
	if _, err := t.fleet.publish(ctx, "firmware-v2", filepath.Join(t.dir, "good.squashfs"), firmwareTag); err != nil {
		return err
	}
	for _, g := range []*guest{t.a, t.b} {
		if err := g.runsSlot(ctx, "running=b active=b good=b", "version=v2"); err != nil {
			return err
		}
		if err := g.holds(ctx, t.Bulk, 2*time.Minute); err != nil {
			return err
		}
		fmt.Printf("%s: idle, with everything complete: %s\n", g.name, g.memoryUse(ctx))
	}
	return nil
}

// runsSlot waits until the guest, which restarts meanwhile, says so of its slots.
func (g *guest) runsSlot(ctx context.Context, want ...string) error {
	last := ""
	err := g.until(ctx, strings.Join(want, " "), 8*time.Minute, func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, 10*time.Second*g.slow)
		defer cancel()
		out, err := g.shell.run(try, "boxd-slot status")
		if err != nil { // it restarts: its shell is a new one
			again, cancel := context.WithTimeout(ctx, 10*time.Second*g.slow)
			defer cancel()
			if hello := g.hello(again); hello != nil {
				return fmt.Errorf("it says nothing, last %q: %w", last, err)
			}
			return err
		}
		last = out
		for _, w := range want {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%q", out)
			}
		}
		return nil
	})
	if err != nil {
		out, _ := g.run(ctx, "ls -la /var/lib/boxd/firmware; journalctl --no-pager -n 30 -o cat -u boxd-update -u boxd")
		return fmt.Errorf("%w\n%s\n%s", err, out, g.lastWords())
	}
	fmt.Printf("%s: %s\n", g.name, last)
	return nil
}

// rollback publishes a root whose boxd does not start: the box tries it three times and goes back by itself.
func (t *test) rollback(ctx context.Context) error {
	t.b.pullThePlug() // one box is enough for this, and three restarts take long
	if _, err := t.fleet.publish(ctx, "firmware-v3", filepath.Join(t.dir, "broken.squashfs"), firmwareTag); err != nil {
		return err
	}
	if err := t.a.runsSlot(ctx, "running=a", "version=v3"); err != nil {
		return err
	}
	if err := t.a.runsSlot(ctx, "running=b active=b good=b", "version=v2"); err != nil {
		return err
	}
	if _, err := t.a.ready(ctx); err != nil {
		return err
	}
	for _, id := range []string{t.Film, t.Bulk} {
		if err := t.a.holds(ctx, id, 2*time.Minute); err != nil {
			return err
		}
	}
	return nil
}

func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }
