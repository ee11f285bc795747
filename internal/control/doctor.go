package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"boxd/internal/config"
	"boxd/internal/health"
)

// CheckStatus is how a check ended.
type CheckStatus string

// The ends of a check.
const (
	CheckOK     CheckStatus = "ok"
	CheckWarn   CheckStatus = "warning"
	CheckFailed CheckStatus = "failed"
)

// Check is one thing that the doctor looked at.
type Check struct {
	Name   string      `json:"name"`
	Status CheckStatus `json:"status"`
	Text   string      `json:"text"`
	Action string      `json:"action"` // empty when there is nothing to do
}

// Doctor says what to look at. The fields that are nil are left out, as when the daemon does not run.
type Doctor struct {
	Fleet, Upload string   // https URLs
	Brokers       []string // tls://host:port
	Dirs          []string // that boxd writes to
	Reserve       int64    // bytes that stay free
	CAFile, Root  string
	TimeSync      string
	MDNS          bool
	Interfaces    []string
	Static        []string
	TLS           func() *tls.Config // of a client of the fleet; nil: only the TCP connection is tried
	Live          func() *Snapshot   // nil when the daemon does not run
	Ports         func() PortMapping // nil: the router is not asked
	Ports6        func() PortMapping // the same over IPv6
	Probe         bool               // boxd is to watch the access line with echoes

	ping    func() error                                             // nil: asks the kernel for a socket
	resolve func(ctx context.Context, host string) ([]string, error) // nil: the system's resolver
}

// DoctorFor is what can be looked at with the configuration alone.
func DoctorFor(c *config.Config) Doctor {
	return Doctor{
		Fleet: c.Fleet.URL, Brokers: c.Fleet.Brokers, Dirs: []string{c.Paths.Cache, c.Paths.State},
		Reserve: int64(c.Cache.Reserve), CAFile: c.Fleet.CA, Root: c.Fleet.Root, TimeSync: c.Paths.TimeSync,
		Probe: c.Limits.Yield && c.Limits.Probe, MDNS: c.LAN.MDNS, Interfaces: c.LAN.Interfaces, Static: c.LAN.Static,
	}
}

func (b *Box) doctor() Doctor {
	b.mu.Lock()
	d := DoctorFor(b.cfg)
	b.mu.Unlock()
	d.TLS, d.Live, d.Ports, d.Ports6 = b.o.FleetTLS, b.Snapshot, b.o.Ports, b.o.Ports6
	return d
}

// checkTimeout bounds each check.
const checkTimeout = 8 * time.Second

// Diagnose makes all checks, those that wait for the network at the same time.
func Diagnose(ctx context.Context, d Doctor) []Check {
	steps := []func(context.Context) []Check{
		d.clock, d.disk, d.files, d.certificate, d.names, d.fleet, d.brokers, d.catalog, d.multicast, d.nat, d.line, d.warnings,
	}
	results := make([][]Check, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			results[i] = step(ctx)
		})
	}
	wg.Wait()
	return slices.Concat(results...)
}

func ok(name, format string, args ...any) []Check {
	return []Check{{Name: name, Status: CheckOK, Text: fmt.Sprintf(format, args...)}}
}

func bad(name string, st CheckStatus, action, format string, args ...any) []Check {
	return []Check{{Name: name, Status: st, Text: fmt.Sprintf(format, args...), Action: action}}
}

func (d Doctor) clock(context.Context) []Check {
	const action = "Check that the time service runs (timedatectl) and that the network lets NTP through."
	now := time.Now()
	if d.Live != nil {
		if c := d.Live().Clock; !c.Trusted {
			return bad("clock", CheckFailed, action, "The clock is not trusted; no window opens until it is. It shows %s.",
				c.Now.Format(time.RFC1123))
		} else if diff := now.Sub(c.Now).Abs(); diff > 5*time.Minute {
			return bad("clock", CheckWarn, action, "The system's clock differs by %v from what the fleet said.",
				diff.Round(time.Second))
		}
		return ok("clock", "The clock is trusted: %s.", now.Format(time.RFC1123))
	}
	if _, err := os.Stat(d.TimeSync); err != nil {
		return bad("clock", CheckWarn, action, "%s is not there, so the clock is not synchronised. It shows %s.",
			d.TimeSync, now.Format(time.RFC1123))
	}
	return ok("clock", "Synchronised: %s.", now.Format(time.RFC1123))
}

func (d Doctor) disk(context.Context) []Check {
	var list []Check
	for _, dir := range d.Dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			list = append(list, bad("disk", CheckFailed, "Make the directory and give it to the user boxd.", "%s: %v", dir,
				err)...)
			continue
		}
		free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ on 32-bit
		switch {
		case st.Flags&unix.ST_RDONLY != 0:
			list = append(list, bad("disk", CheckFailed, "Look for I/O errors (dmesg); the disk may be dying.",
				"%s is mounted read-only.", dir)...)
		case unix.Access(dir, unix.W_OK) != nil:
			list = append(list, bad("disk", CheckFailed,
				"Run this as root or as the daemon's user, or mend the directory's owner.", "%s cannot be written to.", dir)...)
		case free < d.Reserve:
			list = append(list, bad("disk", CheckWarn, "Something else fills the disk; boxd shrinks its cache meanwhile.",
				"%s has %d MiB free, less than the reserve of %d MiB.", dir, free>>20, d.Reserve>>20)...)
		case st.Files > 0 && st.Ffree*100 < st.Files:
			list = append(list, bad("disk", CheckWarn, "Remove files that are not needed.", "%s is almost out of inodes.",
				dir)...)
		default:
			list = append(list, ok("disk", "%s: %.1f GiB free.", dir, float64(free)/(1<<30))...)
		}
	}
	return list
}

func (d Doctor) files(context.Context) []Check {
	for name, file := range map[string]string{"the fleet's CA": d.CAFile, "the catalog's root": d.Root} {
		f, err := os.Open(filepath.Clean(file))
		if err != nil {
			return bad("trust", CheckFailed, "Install the bundle that fleetd wrote (its firmware directory).", "%s: %v",
				name, err)
		}
		_ = f.Close() // opened for reading
	}
	return ok("trust", "The fleet's CA and the catalog's root are installed.")
}

func (d Doctor) certificate(context.Context) []Check {
	if d.Live == nil {
		return nil
	}
	s := d.Live()
	left := s.Box.CertificateExpires.Sub(s.Clock.Now)
	switch {
	case !s.Box.Enrolled:
		return bad("certificate", CheckFailed, "Check the enrolment token and that the fleet manager can be reached.",
			"This box has no certificate of its fleet.")
	case left < 0:
		return bad("certificate", CheckFailed, "boxd renews it when the fleet manager answers; boxd refresh tries now.",
			"The certificate of %s has expired.", s.Box.ID)
	case left < 7*24*time.Hour:
		return bad("certificate", CheckWarn, "It should have been renewed; see the fleet check.",
			"The certificate of %s expires in %d days.", s.Box.ID, int(left.Hours()/24))
	}
	return ok("certificate", "%s of fleet %s, valid for %d more days.", s.Box.ID, s.Box.Fleet, int(left.Hours()/24))
}

func (d Doctor) hosts() []string {
	var list []string
	for _, s := range append([]string{d.Fleet}, d.Brokers...) {
		if u, err := url.Parse(s); err == nil && u.Hostname() != "" && !slices.Contains(list, u.Hostname()) {
			list = append(list, u.Hostname())
		}
	}
	return list
}

func (d Doctor) names(ctx context.Context) []Check {
	lookup := d.resolve
	if lookup == nil {
		lookup = net.DefaultResolver.LookupHost
	}
	var list []Check
	for _, h := range d.hosts() {
		if _, err := netip.ParseAddr(h); err == nil {
			continue
		}
		addrs, err := lookup(ctx, h)
		if err != nil {
			list = append(list, bad("dns", CheckFailed, "Check the router's DNS and /etc/resolv.conf.",
				"%s cannot be resolved: %v", h, err)...)
			continue
		}
		list = append(list, ok("dns", "%s is %s.", h, strings.Join(addrs, ", "))...)
	}
	if len(list) == 0 {
		return ok("dns", "No names are needed: all servers are given by address.")
	}
	return list
}

func (d Doctor) reach(ctx context.Context, name, rawURL, defaultPort string) []Check {
	u, err := url.Parse(rawURL)
	if err != nil || u.Hostname() == "" {
		return bad(name, CheckFailed, "Mend the configuration.", "%q is no address.", rawURL)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	addr := net.JoinHostPort(u.Hostname(), port)
	start := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return bad(name, CheckFailed, "Check the network, the router's firewall, and that the server runs.",
			"%s does not answer: %v", addr, err)
	}
	defer conn.Close() // nothing was sent that matters
	took := time.Since(start)
	if d.TLS == nil {
		return ok(name, "%s answers in %v.", addr, took.Round(100*time.Microsecond))
	}
	conf := d.TLS().Clone()
	conf.ServerName = u.Hostname()
	if err := tls.Client(conn, conf).HandshakeContext(ctx); err != nil {
		var cert *tls.CertificateVerificationError
		action := "Something between the box and the server answers in its place, or the server's TLS is broken."
		if errors.As(err, &cert) {
			action = "The server's certificate is not one of this fleet's: wrong address, wrong " +
				"ca.pem, or a proxy in between. A wrong clock does this, too."
		}
		return bad(name, CheckFailed, action, "%s answers, but TLS fails: %v", addr, err)
	}
	return ok(name, "%s answers in %v, with a certificate of this fleet.", addr, took.Round(100*time.Microsecond))
}

func (d Doctor) fleet(ctx context.Context) []Check { return d.reach(ctx, "fleet", d.Fleet, "443") }

func (d Doctor) brokers(ctx context.Context) []Check {
	var list []Check
	for _, b := range d.Brokers {
		list = append(list, d.reach(ctx, "broker", b, "8883")...)
	}
	if d.Live != nil {
		if s := d.Live(); s.Box.Enrolled && len(d.Brokers) > 0 && !s.Broker.Connected {
			list = append(list, bad("broker", CheckFailed, "See the checks above; boxd tries again by itself.",
				"There is no session with the broker: %s", s.Broker.Error)...)
		}
	}
	if len(list) == 0 {
		return bad("broker", CheckWarn, "Set [fleet] brokers.", "No broker is configured; the box reports to nobody.")
	}
	return list
}

func (d Doctor) catalog(context.Context) []Check {
	if d.Live == nil {
		return nil
	}
	c := d.Live().Catalog
	switch {
	case c.Version == 0:
		return bad("catalog", CheckFailed, "See the fleet check; boxd refresh tries now.",
			"No catalog has been verified yet.")
	case !c.Fresh:
		return bad("catalog", CheckFailed, "See the fleet and clock checks; the fleet manager must sign a new one.",
			"The catalog has expired on %s; nothing new is fetched.", c.Expires.Format(time.RFC1123))
	}
	return ok("catalog", "Version %d with %s, good until %s.", c.Version, count(c.Assets, "asset"), c.Expires.Format(time.RFC1123))
}

// line says whether the access line's queue can be watched.
func (d Doctor) line(context.Context) []Check {
	if !d.Probe {
		return nil
	}
	ping := d.ping
	if ping == nil {
		ping = func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
			if err == nil {
				_ = unix.Close(fd) // nothing was sent
			}
			return err
		}
	}
	if err := ping(); errors.Is(err, os.ErrPermission) {
		return bad("line", CheckWarn, "Install the package's file in sysctl.d: it sets net.ipv4.ping_group_range.",
			"The system lets boxd send no echo requests; the access line's queue is only known from its own connections.")
	} else if err != nil {
		return bad("line", CheckWarn, "Look whether the kernel has ICMP sockets.",
			"The access line's queue cannot be watched with echoes: %v.", err)
	}
	return ok("line", "The system lets boxd watch the access line's queue with echoes.")
}

func (d Doctor) warnings(context.Context) []Check {
	if d.Live == nil {
		return nil
	}
	var list []Check
	for _, w := range d.Live().Health {
		st := CheckWarn
		switch w.Severity {
		case health.Critical:
			st = CheckFailed
		case health.Info:
			st = CheckOK
		}
		list = append(list, Check{Name: w.Code, Status: st, Text: w.Text, Action: w.Action})
	}
	return list
}
