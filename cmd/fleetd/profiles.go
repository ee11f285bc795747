package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

// writeProfiles writes what the runtime says of itself to a directory when a signal asks for it: nothing of it is served.
func writeProfiles(ctx context.Context, dir string, log *slog.Logger) {
	ask := make(chan os.Signal, 4)
	signal.Notify(ask, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(ask)
	var cpu *os.File
	defer func() {
		if cpu != nil {
			pprof.StopCPUProfile()
			_ = cpu.Close()
		}
	}()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case s := <-ask:
			switch {
			case s == syscall.SIGUSR1:
				err = errors.Join(writeProfile(dir, "heap", 0), writeProfile(dir, "heap", 1), writeProfile(dir, "goroutine", 1))
			case cpu == nil:
				if cpu, err = os.Create(filepath.Join(dir, "cpu")); err == nil {
					err = pprof.StartCPUProfile(cpu)
				}
			default:
				pprof.StopCPUProfile()
				err = cpu.Close()
				cpu = nil
			}
		}
		if err != nil {
			log.Warn("profile not written", "err", err)
		}
	}
}

func writeProfile(dir, name string, debug int) error {
	file := name
	if debug > 0 {
		file += ".txt"
	}
	f, err := os.Create(filepath.Join(dir, file+".tmp"))
	if err != nil {
		return err
	}
	if err := errors.Join(pprof.Lookup(name).WriteTo(f, debug), f.Close()); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, file+".tmp"), filepath.Join(dir, file))
}
