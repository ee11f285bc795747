package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// probeTimeout is how long a service may take to answer before it counts as stuck.
const probeTimeout = 10 * time.Second

// probes asks services whether they still answer. A service that is stuck keeps one goroutine waiting, never more.
type probes struct {
	mu   sync.Mutex // guards busy
	busy map[string]chan struct{}
}

// ask runs probe unless it is already running, and waits for it.
func (p *probes) ask(ctx context.Context, name string, probe func() error) error {
	p.mu.Lock()
	if p.busy == nil {
		p.busy = map[string]chan struct{}{}
	}
	done, running := p.busy[name]
	var err error
	if !running {
		done = make(chan struct{})
		p.busy[name] = done
		go func() {
			err = probe()
			p.mu.Lock()
			delete(p.busy, name)
			p.mu.Unlock()
			close(done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-done:
		if !running && err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not answer", name)
	}
}

// Probe asks the fetch loop (and with it the scheduler, which runs in it), the cache and the catalog whether they
// answer. The watchdog is fed only while it returns nil.
func (b *Box) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	checks := map[string]func() error{
		"cache":   func() error { b.o.Cache.Assets(); b.o.Cache.Usage(); return nil },
		"catalog": func() error { b.o.Catalog.Snapshot(); b.o.Catalog.Stats(); return nil },
		"health":  func() error { b.o.Health.List(); return nil },
	}
	if b.o.Fetch != nil {
		checks["fetch"] = func() error {
			if !b.o.Fetch.Alive(context.WithoutCancel(ctx)) {
				return errors.New("the loop has ended")
			}
			return nil
		}
	}
	var mu sync.Mutex // guards faults
	var faults []string
	var wg sync.WaitGroup
	for name, probe := range checks {
		wg.Go(func() {
			if err := b.probes.ask(ctx, name, probe); err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults = append(faults, err.Error())
			}
		})
	}
	wg.Wait()
	if len(faults) > 0 {
		slices.Sort(faults)
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}
