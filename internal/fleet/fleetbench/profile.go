package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// snapshot asks the manager for profiles of its memory and keeps them under a name of their own.
func (t *target) snapshot(name string) {
	if t.profiles == "" {
		return
	}
	const last = "goroutine.txt"
	_ = os.Remove(filepath.Join(t.profiles, last)) // there is none the first time
	t.signal(syscall.SIGUSR1)
	for range 100 {
		if _, err := os.Stat(filepath.Join(t.profiles, last)); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, file := range []string{"heap", "heap.txt", last} {
		if err := os.Rename(filepath.Join(t.profiles, file), filepath.Join(t.profiles, name+"."+file)); err != nil {
			fmt.Fprintln(os.Stderr, "fleetbench: profile:", err)
		}
	}
}

// profileCPU begins a profile of the processor; what it returns ends it and keeps it under a name of its own.
func (t *target) profileCPU(name string) func() {
	if t.profiles == "" {
		return func() {}
	}
	t.signal(syscall.SIGUSR2)
	return func() {
		t.signal(syscall.SIGUSR2)
		time.Sleep(time.Second)
		if err := os.Rename(filepath.Join(t.profiles, "cpu"), filepath.Join(t.profiles, name+".cpu")); err != nil {
			fmt.Fprintln(os.Stderr, "fleetbench: profile:", err)
		}
	}
}

func (t *target) signal(s syscall.Signal) {
	if err := t.cmd.Process.Signal(s); err != nil {
		fmt.Fprintln(os.Stderr, "fleetbench: profile:", err)
	}
}
