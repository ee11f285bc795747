package main

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asProgram makes the test's binary behave as boxd, for what only a process of its own shows.
const asProgram = "BOXD_TEST_IS_THE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is boxd in a process of its own.
func (b *testBox) program(env ...string) (*exec.Cmd, *bytes.Buffer) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), os.Args[0], "run", "--config", b.file) //nolint:gosec // this test's own binary
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, append(append(os.Environ(), asProgram+"=1"), env...)
	must(b.t, cmd.Start())
	b.t.Cleanup(func() { _ = cmd.Process.Kill() }) // if the test has failed before it ended
	return cmd, out
}

// exitCode is that of a program that ended by itself.
func exitCode(t *testing.T, cmd *exec.Cmd, out *bytes.Buffer) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() < 0 {
		t.Fatalf("it was killed: %v\n%s", cmd.ProcessState, out)
	}
	return cmd.ProcessState.ExitCode()
}

// A SIGHUP in the middle of the start: the daemon waits for its predecessor to go, which does not.
func TestHangUpWhileStarting(t *testing.T) {
	box := newFleet(t).box("one", "")
	l, err := net.Listen("unix", box.dir+"/sock")
	must(t, err)
	defer l.Close()
	cmd, out := box.program()
	c, err := l.Accept()
	must(t, err)
	defer c.Close()
	must(t, cmd.Process.Signal(syscall.SIGHUP))
	if code := exitCode(t, cmd, out); code != 1 || !strings.Contains(out.String(), "another boxd answers") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// A SIGHUP after the services have ended, while files are being closed.
func TestHangUpWhileStopping(t *testing.T) {
	path := t.TempDir() + "/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer l.Close()
	must(t, l.SetReadDeadline(time.Now().Add(time.Minute)))
	told := func(prefix string) {
		t.Helper()
		for buf := make([]byte, 4096); ; {
			n, err := l.Read(buf)
			must(t, err)
			for line := bufio.NewScanner(bytes.NewReader(buf[:n])); line.Scan(); {
				if line.Text() == prefix {
					return
				}
			}
		}
	}
	f := newFleet(t)
	cmd, out := f.box("one", "").program("NOTIFY_SOCKET=" + path)
	told("READY=1")
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	told("STOPPING=1")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	if code := exitCode(t, cmd, out); code != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
}
