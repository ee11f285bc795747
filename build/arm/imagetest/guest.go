package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guest is one box: a qemu process, its disk, and a root shell on its second console (systemd's debug shell, which only
// the kernel command line of this test asks for).
type guest struct {
	name, address string
	disk          string
	writeLog      string        // where qemu logs every write to the disk; "" is nowhere
	dir           string        // for sockets and the console's text
	image         string        // folder with vmlinuz and initrd
	memory        int           // MiB
	kernelArgs    string        // more for the kernel's command line
	slow          time.Duration // how many times longer than on a machine of its own everything may take

	cmd     *exec.Cmd
	ended   chan struct{}
	started time.Time
	shell   *shell
}

func (g *guest) start() error {
	console := filepath.Join(g.dir, g.name+".sock")
	_ = os.Remove(console)
	args := []string{
		"-M", "virt", "-cpu", "cortex-a53", "-m", fmt.Sprint(g.memory), "-smp", "2", "-display", "none", "-nodefaults",
		"-kernel", filepath.Join(g.image, "vmlinuz"), "-initrd", filepath.Join(g.image, "initrd"),
		"-append", "console=ttyAMA0 panic=2 net.ifnames=0 systemd.debug_shell=hvc0 systemd.getty_auto=no " +
			"systemd.default_timeout_start_sec=300 " +
			"ip=" + g.address + "::" + hostAddress + ":255.255.255.0:" + g.name + ":eth0:off " + g.kernelArgs,
		"-serial", "file:" + filepath.Join(g.dir, g.name+".console"),
		"-netdev", "tap,id=n,ifname=" + tapOf(g.name) + ",script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=n,romfile=,mac=" + macOf(g.name),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=c,server=on,wait=off,path=" + console,
		"-device", "virtconsole,chardev=c", "-device", "virtio-rng-pci",
	}
	if g.writeLog == "" {
		args = append(args, "-blockdev", "driver=file,node-name=disk,filename="+g.disk)
	} else {
		args = append(args, "-blockdev", "driver=blklogwrites,node-name=disk,log-append=off,"+
			"file.driver=file,file.filename="+g.disk+",log.driver=file,log.filename="+g.writeLog)
	}
	args = append(args, "-device", "virtio-blk-pci,drive=disk")
	g.cmd = exec.Command("qemu-system-aarch64", args...)
	errs := &bytes.Buffer{}
	g.cmd.Stderr = errs
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	g.started = time.Now()
	if err := g.cmd.Start(); err != nil {
		return err
	}
	g.ended = make(chan struct{})
	go func(ended chan struct{}) {
		if err := g.cmd.Wait(); err != nil && errs.Len() > 0 {
			fmt.Fprintf(os.Stderr, "%s: qemu: %v: %s\n", g.name, err, errs)
		}
		close(ended)
	}(g.ended)
	return nil
}

// connect waits for the shell.
func (g *guest) connect(ctx context.Context) error {
	console := filepath.Join(g.dir, g.name+".sock")
	ctx, cancel := context.WithTimeout(ctx, 6*time.Minute*g.slow)
	defer cancel()
	for {
		conn, err := net.Dial("unix", console)
		if err == nil {
			g.shell = newShell(conn)
			return g.hello(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: no console: %w", g.name, ctx.Err())
		case <-g.ended:
			return fmt.Errorf("%s: qemu ended", g.name)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// hello waits until the shell answers, at the first start and after the guest restarted itself.
func (g *guest) hello(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second*g.slow)
		out, err := g.shell.run(try, "stty -echo 2>/dev/null; PS1= ; PS2= ; bind 'set enable-bracketed-paste off' 2>/dev/null; echo up")
		cancel()
		if err == nil && strings.Contains(out, "up") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: the shell does not answer: %w\n%s", g.name, ctx.Err(), g.lastWords())
		case <-g.ended:
			return fmt.Errorf("%s: qemu ended\n%s", g.name, g.lastWords())
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (g *guest) lastWords() string {
	text, _ := os.ReadFile(filepath.Join(g.dir, g.name+".console"))
	return string(text[max(0, len(text)-3000):])
}

// run runs a command in the guest and returns what it prints.
func (g *guest) run(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute*g.slow)
	defer cancel()
	out, err := g.shell.run(ctx, command)
	if err != nil {
		return out, fmt.Errorf("%s: %s: %w: %s", g.name, command, err, out)
	}
	return out, nil
}

// until repeats a question until it has an answer.
func (g *guest) until(ctx context.Context, what string, limit time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit*g.slow, errors.New("took too long"))
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s: %w: %w", g.name, what, context.Cause(ctx), err)
		case <-g.ended:
			return fmt.Errorf("%s: %s: qemu ended: %w", g.name, what, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// pullThePlug ends the guest at once.
func (g *guest) pullThePlug() {
	if g.cmd == nil || g.cmd.Process == nil {
		return
	}
	_ = g.cmd.Process.Kill()
	<-g.ended
	g.shell.conn.Close()
}

// shell talks to a shell on a serial line: a command goes out between two marks, and so does its exit code.
type shell struct {
	conn net.Conn
	mu   sync.Mutex // one command at a time
	n    int
	in   chan []byte
}

func newShell(conn net.Conn) *shell {
	s := &shell{conn: conn, in: make(chan []byte, 64)}
	go func() {
		defer close(s.in)
		for {
			buf := make([]byte, 4096)
			n, err := conn.Read(buf)
			if n > 0 {
				s.in <- buf[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *shell) run(ctx context.Context, command string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	// The marks are put together by the shell, so that the echo of the command is not taken for them.
	begin, end := fmt.Sprintf("<<%d-begin>>", s.n), fmt.Sprintf("<<%d-end ", s.n)
	line := fmt.Sprintf("printf '<<%%d-begin>>\\n' %d; { %s\n} </dev/null; printf '\\n<<%%d-end %%d>>\\n' %d $?\n",
		s.n, command, s.n)
	if _, err := s.conn.Write([]byte(line)); err != nil {
		return "", err
	}
	var got strings.Builder
	for {
		select {
		case <-ctx.Done():
			return got.String(), ctx.Err()
		case p, ok := <-s.in:
			if !ok {
				return got.String(), errors.New("the console was closed")
			}
			got.Write(bytes.ReplaceAll(p, []byte("\r"), nil))
		}
		_, rest, ok := strings.Cut(got.String(), begin)
		if !ok {
			continue
		}
		out, code, ok := strings.Cut(rest, end)
		if !ok || !strings.Contains(code, ">>") {
			continue
		}
		code, _, _ = strings.Cut(code, ">>")
		out = strings.TrimSpace(out)
		if code != "0" {
			return out, fmt.Errorf("exit code %s", code)
		}
		return out, nil
	}
}
