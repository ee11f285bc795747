// Command demo shows the main job on one machine: a fleet manager in an empty directory, three boxes of one home, and a
// film that arrives once and plays from each of them. `make demo` builds what it needs and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"boxd/internal/demo"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	bin := flag.String("bin", "bin", "directory with the programs boxd and fleetd")
	media := flag.String("media", "", "the film to publish")
	boxes := flag.Int("boxes", 3, "boxes in the home")
	once := flag.Bool("once", false, "end after the table instead of serving until Ctrl-C")
	static := flag.Bool("static", false, "name the neighbours instead of finding them by mDNS")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "boxd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o := demo.Options{Dir: dir, Boxes: *boxes, Static: *static, Out: os.Stdout, Live: terminal(os.Stdout)}
	for _, p := range []struct {
		into *string
		name string
	}{{&o.Boxd, filepath.Join(*bin, "boxd")}, {&o.Fleetd, filepath.Join(*bin, "fleetd")}, {&o.Media, *media}} {
		if *p.into, err = filepath.Abs(p.name); err != nil {
			return err
		}
		if _, err := os.Stat(*p.into); err != nil {
			return err
		}
	}
	h, err := demo.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Stop()) }()
	result, err := h.Wait(ctx)
	if err != nil {
		return err
	}
	h.Print(result)
	if err := result.Err(); err != nil {
		return fmt.Errorf("%d faults, see above", len(result.Faults))
	}
	if *once {
		return nil
	}
	h.PrintAddresses()
	fmt.Println("\nCtrl-C ends it.")
	<-ctx.Done()
	return nil
}

// terminal reports whether f is one.
func terminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
