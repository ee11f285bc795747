package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
)

// TestTheWatchdogIsFedOnlyWhileTheServicesAnswer: each probe that fails is a meal that systemd does not give.
func TestTheWatchdogIsFedOnlyWhileTheServicesAnswer(t *testing.T) {
	path := t.TempDir() + "/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "2000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stuck := errors.New("the cache does not answer")
	answers := []error{nil, nil, stuck, stuck, stuck, nil, stuck}
	probe := func(context.Context) error {
		if len(answers) == 0 {
			cancel()
			return ctx.Err()
		}
		err := answers[0]
		answers = answers[1:]
		return err
	}
	must(t, notifyLoop(ctx, slog.New(slog.DiscardHandler), probe, func() string { return "well" }))
	notify("END")
	var got []string
	buf := make([]byte, 512)
	for len(got) == 0 || got[len(got)-1] != "END" {
		n, err := l.Read(buf)
		must(t, err)
		got = append(got, strings.Split(string(buf[:n]), "\n")[0])
	}
	if want := "READY=1 WATCHDOG=1 WATCHDOG=1 END"; strings.Join(got, " ") != want {
		t.Errorf("systemd heard %v, want %s", got, want)
	}
	if err := notifyLoop(t.Context(), slog.New(slog.DiscardHandler), func(context.Context) error { return stuck }, nil); !errors.Is(err, stuck) {
		t.Errorf("started though nothing answers: %v", err)
	}
}
