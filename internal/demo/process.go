package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// process is one program that runs, with the end of what it wrote.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; valid after done

	killed atomic.Bool // by us, so that its end is no fault
	log    *os.File
	tail   *tail
}

// tail keeps the last bytes of a log, to show when something goes wrong.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// startProcess runs a program, with its output appended to logPath.
func startProcess(name, logPath, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, done: make(chan struct{}), log: log, tail: &tail{}}
	p.cmd = exec.Command(program, args...)
	// BOXD_* would configure the boxes.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BOXD_") })
	out := &both{log, p.tail}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// Should this program be killed, its children must not stay behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		log.Close()
		close(p.done)
	}()
	return p, nil
}

type both struct {
	log  *os.File
	tail *tail
}

func (b *both) Write(p []byte) (int, error) {
	_, _ = b.tail.Write(p)
	return b.log.Write(p)
}

func (p *process) signal(s syscall.Signal) {
	if p != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(s) // it may have ended already
	}
}

// stop asks the program to end, and kills it when it does not within a minute.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil && !p.killed.Load() {
			return fmt.Errorf("%s: %w:\n%s", p.name, p.err, p.tail)
		}
		return nil
	case <-time.After(time.Minute):
		p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s did not end within a minute of SIGTERM:\n%s", p.name, p.tail)
	}
}

// kill ends the program as a power cut would.
func (p *process) kill() {
	p.killed.Store(true)
	p.signal(syscall.SIGKILL)
	<-p.done
}

// ended reports whether the program has ended, with the end of its log.
func (p *process) ended() error {
	select {
	case <-p.done:
		if p.err == nil {
			return fmt.Errorf("%s ended by itself:\n%s", p.name, p.tail)
		}
		return fmt.Errorf("%s ended: %w:\n%s", p.name, p.err, p.tail)
	default:
		return nil
	}
}

// until asks again and again whether something is so, and stops when the process ends.
func (p *process) until(ctx context.Context, what string, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("never asked")
	for {
		select {
		case <-p.done:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("%s: %s did not happen in %v: %w\n%s", p.name, what, limit, last, p.tail)
		case <-tick.C:
			if last = ask(ctx); last == nil {
				return nil
			}
		}
	}
}

// freePorts fills in TCP ports that nobody listens on. They are all held until the last is found, so they differ; and they
// are below those that the system gives out by itself, so that they are free still when their program starts.
func freePorts(ports []int) error {
	for i := range ports {
		l, err := listenSomewhere()
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func listenSomewhere() (l net.Listener, err error) {
	const first, count = 20_000, 10_000
	for range 200 {
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(count))); err == nil {
			break
		}
	}
	return l, err
}

// multicast reports whether an interface other than loopback can carry mDNS.
func multicast() bool {
	ifs, err := net.Interfaces()
	if err != nil {
		return false
	}
	const want = net.FlagUp | net.FlagMulticast
	for _, i := range ifs {
		if addrs, err := i.Addrs(); err == nil && len(addrs) > 0 && i.Flags&want == want && i.Flags&net.FlagLoopback == 0 {
			return true
		}
	}
	return false
}
