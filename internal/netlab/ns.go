//go:build linux

package netlab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// NS is a network namespace. Its methods may be called from any goroutine.
type NS struct {
	Name string // as `ip netns` knows it

	path  string
	calls chan func() // run on the thread that lives in the namespace
	done  sync.Once
}

const netnsDir = "/run/netns"

func (lab *Lab) newNS(role string) (*NS, error) {
	n := &NS{Name: lab.prefix + role, calls: make(chan func())}
	n.path = filepath.Join(netnsDir, n.Name)
	if err := run(exec.Command("ip", "netns", "add", n.Name)); err != nil {
		return nil, err
	}
	lab.all = append(lab.all, n)
	started := make(chan error)
	go n.thread(started)
	if err := <-started; err != nil {
		return nil, err
	}
	for _, key := range []string{"net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad"} {
		_ = n.sysctl(key, "0") // a kernel without IPv6 has none
	}
	return n, n.IP("link set lo up")
}

// thread is the one OS thread that stays in the namespace: children are forked from it, so that their death signal
// (sent when the forking thread ends) comes with the end of the process and not earlier. It is never unlocked: the
// runtime throws a thread away that a goroutine left locked, so no other goroutine ever runs in this namespace.
func (n *NS) thread(started chan<- error) {
	runtime.LockOSThread()
	if err := n.enter(); err != nil {
		started <- err
		return
	}
	started <- nil
	for f := range n.calls {
		f()
	}
}

func (n *NS) enter() error {
	fd, err := unix.Open(n.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", n.Name, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	return nil
}

// Do runs f on the namespace's own thread: sockets and files that f opens belong to the namespace. One at a time; f
// must not block and must not hand its work to other goroutines.
func (n *NS) Do(f func() error) error {
	result := make(chan error)
	n.calls <- func() { result <- f() }
	return <-result
}

// Listen listens inside the namespace, for code that runs in the test process.
func (n *NS) Listen(network, addr string) (ln net.Listener, err error) {
	err = n.Do(func() error {
		ln, err = net.Listen(network, addr)
		return err
	})
	return ln, err
}

// ListenPacket is Listen for UDP.
func (n *NS) ListenPacket(network, addr string) (pc net.PacketConn, err error) {
	err = n.Do(func() error {
		pc, err = net.ListenPacket(network, addr)
		return err
	})
	return pc, err
}

// Dial connects from inside the namespace; it fits http.Transport.DialContext. The address must be an IP literal:
// name look-ups and dual-stack races run on other threads, outside of the namespace.
func (n *NS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and left locked: see thread
		if err := n.enter(); err != nil {
			ch <- result{nil, err}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		ch <- result{conn, err}
	}()
	r := <-ch
	return r.conn, r.err
}

// Cmd is an exec.Cmd that starts inside a namespace. Use its Start, Run, Output and CombinedOutput only.
type Cmd struct {
	*exec.Cmd
	ns *NS
}

// Command prepares a program to run inside the namespace. It is killed when ctx ends or the test process dies.
func (n *NS) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return &Cmd{Cmd: c, ns: n}
}

// Start starts the program in its namespace.
func (c *Cmd) Start() error { return c.ns.Do(c.Cmd.Start) }

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns what it wrote to standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s in %s: %w: %s", filepath.Base(c.Path), c.ns.Name, err, tail(errs.String()))
	}
	return out.Bytes(), nil
}

// CombinedOutput runs the program and returns standard output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Exec runs a program to its end and returns its standard output.
func (n *NS) Exec(ctx context.Context, name string, args ...string) ([]byte, error) {
	return n.Command(ctx, name, args...).Output()
}

// IP runs `ip` commands inside the namespace.
func (n *NS) IP(commands ...string) error {
	return run(n.stdin(strings.Join(commands, "\n")+"\n", "ip", "-batch", "-"))
}

// Nft loads nftables rules inside the namespace.
func (n *NS) Nft(rules string) error { return run(n.stdin(rules, "nft", "-f", "-")) }

// SetCongestion makes everybody who sends from the namespace over IPv4 use a congestion control of the kernel's, for
// connections that begin after this. It is said of the routes: a namespace's own default cannot be any.
func (n *NS) SetCongestion(name string) error {
	routes, err := n.Exec(context.Background(), "ip", "-4", "route", "show")
	if err != nil {
		return err
	}
	var changes []string
	for line := range strings.Lines(string(routes)) {
		changes = append(changes, "route change "+strings.TrimSpace(line)+" congctl "+name)
	}
	if err := n.IP(changes...); err != nil {
		return fmt.Errorf("congestion control %s in %s: %w", name, n.Name, err)
	}
	return nil
}

func (n *NS) stdin(text, name string, args ...string) *Cmd {
	c := n.Command(context.Background(), name, args...)
	c.Stdin = strings.NewReader(text)
	return c
}

// sysctl writes below /proc/sys; net/… is the writing thread's namespace's.
func (n *NS) sysctl(key, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/thread-self/root/proc/sys/"+key, []byte(value), 0) })
}

func (n *NS) close() error {
	n.done.Do(func() { close(n.calls) })
	return remove(n.Name)
}

// remove kills what still runs in a namespace, then takes its name away; devices go with it.
func remove(name string) error {
	pids, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return fmt.Errorf("processes of %s: %w", name, err)
	}
	for _, field := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
	return run(exec.Command("ip", "netns", "delete", name))
}

var labName = regexp.MustCompile(`^nl(\d+)-\d+-`)

// sweep removes the namespaces of makers that are dead. Errors do not matter: another lab may be sweeping, too.
func sweep() {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		m := labName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + m[1]); os.IsNotExist(err) {
			_ = remove(e.Name())
		}
	}
}

// runner is an exec.Cmd or a Cmd.
type runner interface {
	CombinedOutput() ([]byte, error)
	String() string
}

func run(c runner) error {
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", c.String(), err, tail(string(out)))
	}
	return nil
}

func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-500):]
}
