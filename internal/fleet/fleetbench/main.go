// Command fleetbench measures a fleet manager with many simulated boxes: real MQTT over mutual TLS against the real fleetd
// in a process of its own, and the broker part of it against mosquitto.
//
// Invariants: all figures are measured from outside (bytes of the process, messages at the boxes, rows in the store); a
// figure that was not reached is an error and not a guess.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"time"
)

type figures struct {
	Boxes         int     `json:"boxes"`
	ConnectsPerS  float64 `json:"connects_per_second"`
	ConnectCPUMS  float64 `json:"connect_cpu_ms"`          // of the manager, for one connect with its first report
	ClientCPUMS   float64 `json:"client_cpu_ms"`           // of the simulated box, for the same
	BackCPUMS     float64 `json:"back_cpu_ms"`             // of the manager, for one box that comes back after the kill
	KBPerBox      float64 `json:"kb_per_box"`              // resident, a while after all have connected
	PeakKBPerBox  float64 `json:"peak_kb_per_box"`         // resident at most, while they connected
	BusyKBPerBox  float64 `json:"busy_kb_per_box"`         // resident when all have just reported as fast as they could
	ReportsPerS   float64 `json:"reports_per_second"`      // committed to the store, or acknowledged by mosquitto
	ReportsPerCPU float64 `json:"reports_per_second_core"` // a second of the manager's own CPU time
	FanoutP50MS   float64 `json:"fanout_p50_ms"`           // from the operator's request to the box
	FanoutP99MS   float64 `json:"fanout_p99_ms"`
	FanoutMaxMS   float64 `json:"fanout_max_ms"`
	BackS         float64 `json:"all_back_s"` // after a kill -9, from the moment the broker listens again
	JitterS       float64 `json:"jitter_s"`
	Lost          int     `json:"lost"` // boxes that did not come back, or messages that did not arrive
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fleetbench:", err)
		os.Exit(1)
	}
}

func run() error {
	boxes := flag.Int("boxes", 10_000, "simulated boxes")
	fleetd := flag.String("fleetd", "", "the fleetd binary")
	seconds := flag.Int("seconds", 15, "how long reports are sent")
	jitter := flag.Duration("jitter", 8*time.Second, "spread of reconnects after a kill")
	only := flag.String("only", "", "fleetd or mosquitto; empty for both")
	settle := flag.Duration("settle", 45*time.Second, "how long the boxes are left alone before memory is looked at")
	profiles := flag.String("profiles", "", "directory for the manager's profiles")
	flag.Parse()
	if *fleetd == "" {
		return fmt.Errorf("want -fleetd")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "fleetbench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	results := map[string]figures{}
	for _, name := range []string{"fleetd", "mosquitto"} {
		if *only != "" && *only != name {
			continue
		}
		t, err := newTarget(ctx, name, *fleetd, dir, *profiles)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f, err := measure(ctx, t, *boxes, time.Duration(*seconds)*time.Second, *jitter, *settle)
		t.kill()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		results[name] = f
		fmt.Fprintf(os.Stdout, "%-10s %6d boxes  %6.0f connects/s (%.2f ms of its processor each, %.2f of the box's; %.2f coming back)  "+
			"%5.1f kB/box (%.1f while connecting, %.1f after reports)  "+
			"%7.0f reports/s  %7.0f reports/s·core  "+
			"fan-out p50 %4.0f p99 %4.0f max %4.0f ms  all back %4.1f s (jitter %.0f)  lost %d\n", name, f.Boxes, f.ConnectsPerS,
			f.ConnectCPUMS, f.ClientCPUMS, f.BackCPUMS, f.KBPerBox, f.PeakKBPerBox, f.BusyKBPerBox, f.ReportsPerS, f.ReportsPerCPU,
			f.FanoutP50MS, f.FanoutP99MS, f.FanoutMaxMS, f.BackS, f.JitterS, f.Lost)
	}
	out, err := json.Marshal(results)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, string(out))
	return nil
}

func measure(ctx context.Context, t *target, n int, span, jitter, settle time.Duration) (figures, error) {
	f := figures{Boxes: n, JitterS: jitter.Seconds()}
	s, err := newSwarm(t, n)
	if err != nil {
		return f, err
	}
	defer s.close()
	t.snapshot("empty")
	before, err := t.memory("VmRSS:")
	if err != nil {
		return f, err
	}
	end := t.profileCPU("connect")
	began, cpu := time.Now(), t.costs()
	if err := s.connectAll(ctx, 64, 0); err != nil {
		return f, err
	}
	f.ConnectsPerS = float64(n) / time.Since(began).Seconds()
	f.ConnectCPUMS, f.ClientCPUMS = cpu.each(t, n)
	end()
	peak, err := t.memory("VmHWM:")
	if err != nil {
		return f, err
	}
	f.PeakKBPerBox = float64(peak-before) / float64(n) / 1000
	time.Sleep(settle) // let what was needed only for the handshakes go
	after, err := t.memory("VmRSS:")
	if err != nil {
		return f, err
	}
	f.KBPerBox = float64(after-before) / float64(n) / 1000
	t.snapshot("idle")
	if err := reports(ctx, t, s, span, &f); err != nil {
		return f, err
	}
	t.snapshot("busy")
	busy, err := t.memory("VmRSS:")
	if err != nil {
		return f, err
	}
	f.BusyKBPerBox = float64(busy-before) / float64(n) / 1000
	if err := fanout(ctx, t, s, &f); err != nil {
		return f, err
	}
	t.kill()
	if err := t.start(ctx); err != nil {
		return f, err
	}
	end = t.profileCPU("back")
	began, cpu = time.Now(), t.costs()
	if err := s.connectAll(ctx, 256, jitter); err != nil {
		return f, err
	}
	f.BackS = time.Since(began).Seconds()
	if n := s.again.Load(); n > 0 {
		fmt.Fprintf(os.Stderr, "%d connects were tried again, the last because: %v\n", n, s.fault.Load())
	}
	f.BackCPUMS, _ = cpu.each(t, n)
	end()
	f.Lost += n - s.connected()
	return f, nil
}

func reports(ctx context.Context, t *target, s *swarm, span time.Duration, f *figures) error {
	cpu, err := t.cpu()
	if err != nil {
		return err
	}
	base, err := t.stored(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	end := t.profileCPU("report")
	sent, err := s.reports(ctx, span)
	end()
	if err != nil {
		return err
	}
	// The clock runs until the last one is committed: a queue that grows is not throughput.
	stored := int64(0)
	for last := time.Now(); ; {
		now, err := t.stored(ctx)
		if err != nil {
			return err
		}
		if now-base > stored {
			stored, last = now-base, time.Now()
		}
		if now < 0 || stored >= sent || time.Since(last) > 20*time.Second {
			if now < 0 {
				stored = sent
			}
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(began).Seconds()
	used, err := t.cpu()
	if err != nil {
		return err
	}
	f.ReportsPerS = float64(stored) / took
	if c := (used - cpu).Seconds(); c > 0 {
		f.ReportsPerCPU = float64(stored) / c
	}
	f.Lost += int(max(0, sent-stored))
	return nil
}

func fanout(ctx context.Context, t *target, s *swarm, f *figures) error {
	s.expectWish()
	began := time.Now()
	if err := t.wish(ctx); err != nil {
		return err
	}
	times := s.wishTimes(ctx, began, 30*time.Second)
	f.Lost += s.n - len(times)
	if len(times) == 0 {
		return fmt.Errorf("the wish reached nobody")
	}
	sort.Float64s(times)
	at := func(q float64) float64 { return times[min(len(times)-1, int(q*float64(len(times))))] }
	f.FanoutP50MS, f.FanoutP99MS, f.FanoutMaxMS = at(0.5), at(0.99), times[len(times)-1]
	return nil
}
