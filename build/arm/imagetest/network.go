package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// The virtual home: a bridge in a network namespace of this test's own, the fleet manager on the bridge's address, a tap
// for each guest. Nothing of it reaches the machine's network.
const (
	insideEnv   = "BOXD_IMAGETEST_INSIDE"
	hostAddress = "10.77.0.1"
	bridge      = "home0"
)

var guests = map[string]struct{ address, mac string }{
	"box-a": {"10.77.0.11", "52:54:00:77:00:0b"},
	"box-b": {"10.77.0.12", "52:54:00:77:00:0c"},
}

func tapOf(name string) string { return "tap-" + name }
func macOf(name string) string { return guests[name].mac }

// enterNamespace runs this program again inside a fresh network namespace and ends with its exit code.
func enterNamespace() error {
	if os.Getenv(insideEnv) != "" {
		return buildNetwork()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); cmd.ProcessState == nil {
		return err
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}

func buildNetwork() error {
	commands := []string{
		"mount --make-rprivate /",
		"ip link set lo up",
		"ip link add " + bridge + " type bridge mcast_snooping 0 forward_delay 0",
		"ip addr add " + hostAddress + "/24 dev " + bridge,
		"ip link set " + bridge + " up",
	}
	for name := range guests {
		tap := tapOf(name)
		commands = append(commands, "ip tuntap add "+tap+" mode tap", "ip link set "+tap+" master "+bridge, "ip link set "+tap+" up")
	}
	for _, c := range commands {
		words := strings.Fields(c)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, out)
		}
	}
	return nil
}
