package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"boxd/internal/durable"
)

// listenTCP explains the faults that people meet.
func listenTCP(ctx context.Context, key, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil,
			fmt.Errorf("%s = %q: another program has this port; stop it (ss -ltnp shows it) or choose another port", key, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s = %q: this machine has no such address", key, addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s = %q: ports below 1024 are for root", key, addr)
	case err != nil:
		return nil, fmt.Errorf("%s = %q: %w", key, addr, err)
	}
	return l, nil
}

// socketGroup is whose members may look at the box over the socket.
const socketGroup = "boxd"

// dyingGrace is how long a daemon that was killed may take to go: until the kernel has closed its files, its socket
// accepts.
const dyingGrace = 2 * time.Second

// goneWithin reports whether nobody listens on a socket, now or before the grace has passed.
func goneWithin(ctx context.Context, path string, grace time.Duration) bool {
	end := time.Now().Add(grace)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err != nil {
			return true
		}
		_ = c.Close() // nothing was sent
		if time.Now().After(end) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// listenUnix makes the command line's socket, 0660. A socket that a dead daemon left is replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the socket's own mode guards it
		return nil, fmt.Errorf("paths.socket: %w", err)
	}
	if !goneWithin(ctx, path, dyingGrace) {
		return nil, fmt.Errorf("paths.socket = %q: another boxd answers there", path)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("paths.socket = %q: there is a file that is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("paths.socket: remove the old socket: %w", err)
		}
	}
	old := syscall.Umask(0o117) // nobody gets in between bind and chmod; no other thread makes files yet
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("paths.socket = %q: %w", path, err)
	}
	if g, err := user.LookupGroup(socketGroup); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			_ = os.Chown(path, -1, gid) // only root or a member may; without it the daemon's own group stays
		}
	}
	return l, nil
}

// httpToken reads the token that writes over TCP need, or makes one.
func httpToken(file string) (string, error) {
	b, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err == nil {
		if tok := strings.TrimSpace(string(b)); len(tok) >= 16 {
			return tok, nil
		}
		return "", fmt.Errorf("http.token_file %s: want at least 16 characters", file)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("http.token_file: %w", err)
	}
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make the http token: %w", err)
	}
	tok := hex.EncodeToString(raw)
	if err := durable.WriteFile(durable.OS(), file, []byte(tok+"\n"), 0o640); err != nil {
		return "", fmt.Errorf("keep the http token: %w", err)
	}
	return tok, nil
}
