package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notify tells systemd something (sd_notify(3)); without systemd it does nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // systemd will notice by itself
	}
	defer conn.Close() // a datagram was sent or not
	_, _ = conn.Write([]byte(state))
}

func notifyReloading() {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return
	}
	notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/1000))
}

// watchdogInterval is how often systemd wants to be fed, halved; 0 without a watchdog (sd_watchdog_enabled(3)).
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// statusInterval is how often systemctl status gets a fresh line where no watchdog sets the pace.
const statusInterval = 30 * time.Second

// notifyLoop says READY once the services answer, then feeds the watchdog only while they do.
func notifyLoop(ctx context.Context, log *slog.Logger, probe func(context.Context) error, status func() string) error {
	every := watchdogInterval()
	watched := every > 0
	if !watched {
		every = statusInterval
	}
	if err := probe(ctx); err == nil {
		notify("READY=1\nSTATUS=" + status())
	} else if ctx.Err() == nil {
		return fmt.Errorf("the services do not answer after the start: %w", err)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch err := probe(ctx); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Error("a service does not answer; the watchdog is not fed", "error", err)
		case watched:
			notify("WATCHDOG=1\nSTATUS=" + status())
		default:
			notify("STATUS=" + status())
		}
	}
}
