package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A daemon that was killed a moment ago still accepts; one that stays is a mistake of whoever started the second.
func TestSocketOfADyingDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boxd.sock")
	dying, err := net.Listen("unix", path)
	must(t, err)
	dying.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	go func() {
		if c, err := dying.Accept(); err == nil { // the new daemon looked once
			_ = c.Close()
		}
		_ = dying.Close()
	}()
	l, err := listenUnix(t.Context(), path)
	must(t, err)
	defer func() { _ = l.Close() }()
	if goneWithin(t.Context(), path, 50*time.Millisecond) {
		t.Error("a daemon that runs was taken for a dead one")
	}
	if _, err := listenUnix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another boxd answers") {
		t.Errorf("a second daemon: %v", err)
	}
	if !goneWithin(t.Context(), path+"-none", time.Hour) {
		t.Error("no socket was taken for a daemon")
	}
}
