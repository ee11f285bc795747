package fleettest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Ports that the system gives to nobody who does not ask for them by number (net.ipv4.ip_local_port_range begins at 32768).
const (
	firstPort = 20_000
	portCount = 10_000
)

// FreePort is a TCP port of loopback that is nobody else's until the test ends: a server that is started on it later, in this
// process or another, finds it free. Other tests know by a name in the abstract name space that it is taken.
func FreePort(tb testing.TB) int {
	tb.Helper()
	for range 200 {
		port := firstPort + rand.IntN(portCount)
		claim, err := net.Listen("unix", fmt.Sprintf("@boxd-test-port-%d", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			_ = claim.Close()
			continue
		}
		_ = l.Close()
		tb.Cleanup(func() { _ = claim.Close() })
		return port
	}
	tb.Fatal("no free port")
	return 0
}

// FreeAddr is FreePort with the address of loopback before it.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb)))
}
