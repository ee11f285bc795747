// Package fleettest helps the tests of the operator's side: it starts Debian's PostgreSQL on loopback in a directory of
// the test's own.
//
// Invariants: nothing outlives the test; what is not installed skips the test with its name.
package fleettest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Postgres is a server that a test started.
type Postgres struct {
	URL  string
	bin  string
	dir  string
	port int
	cred *syscall.Credential
	cmd  *exec.Cmd
}

// StartPostgres makes and starts a database server, or skips the test.
func StartPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bins) == 0 {
		tb.Skip("postgresql is not installed")
	}
	sort.Strings(bins)
	p := &Postgres{bin: bins[len(bins)-1], port: FreePort(tb)}
	// PostgreSQL refuses to run as root, so its directory must be reachable for another user.
	base, err := os.MkdirTemp("", "fleettest-pg-") //nolint:usetesting // the test's own directory is root's alone
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(base) })
	p.dir = filepath.Join(base, "data")
	if os.Getuid() == 0 {
		p.cred = unprivileged(tb)
		if err := os.Chown(base, int(p.cred.Uid), int(p.cred.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	if out, err := p.run("initdb", "-D", p.dir, "-A", "trust", "-U", "fleetd", "-E", "UTF8", "--no-sync").
		CombinedOutput(); err != nil {
		tb.Fatalf("initdb: %v\n%s", err, out)
	}
	p.URL = fmt.Sprintf("postgres://fleetd@127.0.0.1:%d/postgres?sslmode=disable", p.port)
	p.Start(tb)
	tb.Cleanup(p.Kill)
	return p
}

func unprivileged(tb testing.TB) *syscall.Credential {
	tb.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	tb.Skip("no unprivileged user for postgresql")
	return nil
}

func (p *Postgres) run(tool string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, tool), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Start starts the server again after Kill.
func (p *Postgres) Start(tb testing.TB) {
	tb.Helper()
	p.cmd = p.run(
		"postgres",
		"-D",
		p.dir,
		"-p",
		strconv.Itoa(p.port),
		"-c",
		"listen_addresses=127.0.0.1",
		"-k",
		filepath.Dir(p.dir),
		"-c",
		"fsync=off",
	)
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	Until(tb, 2*time.Minute, "postgresql answers", func() bool {
		return p.run("pg_isready", "-h", "127.0.0.1", "-p", strconv.Itoa(p.port)).Run() == nil
	})
}

// Kill ends the server as a power cut would.
func (p *Postgres) Kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // immediate shutdown: no checkpoint, recovery at the next start
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// NewDatabase makes an empty database on the server and returns its URL. It sorts as English does, which is not the order
// of bytes.
func (p *Postgres) NewDatabase(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("t%d", time.Now().UnixNano())
	out, err := p.run("createdb", "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-U", "fleetd", "-T", "template0",
		"--locale-provider=icu", "--icu-locale=en-US", name).CombinedOutput()
	if err != nil {
		tb.Fatalf("createdb: %v\n%s", err, out)
	}
	return fmt.Sprintf("postgres://fleetd@127.0.0.1:%d/%s?sslmode=disable", p.port, name)
}

// Until waits for a condition of another process.
func Until(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(max(limit, 3*time.Minute)) // the machine may be busy
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}
