package control

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"boxd/internal/health"
)

// well is a box that has nothing: each case breaks one thing.
func well(t *testing.T) (Doctor, *Snapshot) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "there")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s := &Snapshot{
		Clock:   Clock{Now: now, Trusted: true},
		Box:     Self{ID: "box-a", Fleet: "test", Enrolled: true, CertificateExpires: now.Add(60 * 24 * time.Hour)},
		Catalog: Catalog{Version: 3, Fresh: true, Expires: now.Add(time.Hour)},
		Broker:  Broker{Connected: true}, Home: []Neighbour{{ID: "box-b"}},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return Doctor{
		Fleet: "https://" + l.Addr().String(), Brokers: []string{"tls://" + l.Addr().String()}, Dirs: []string{dir}, Reserve: 1,
		CAFile: file, Root: file, TimeSync: file, Static: []string{"192.0.2.1:6880"}, Live: func() *Snapshot { return s },
		Probe: true, ping: func() error { return nil },
	}, s
}

// TestDoctorFindsEachUsualFault breaks one thing at a time: the doctor names it, says what to do, and blames nothing else.
func TestDoctorFindsEachUsualFault(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	foreign := httptest.NewTLSServer(nil)
	defer foreign.Close()
	for name, c := range map[string]struct {
		harm  func(d *Doctor, s *Snapshot)
		check string
		want  CheckStatus
		says  string
	}{
		"nothing":                  {func(*Doctor, *Snapshot) {}, "", CheckOK, ""},
		"an untrusted clock":       {func(_ *Doctor, s *Snapshot) { s.Clock.Trusted = false }, "clock", CheckFailed, "not trusted"},
		"a clock that was set off": {func(_ *Doctor, s *Snapshot) { s.Clock.Now = time.Now().Add(-time.Hour) }, "clock", CheckWarn, "differs by"},
		"no time service": {func(d *Doctor, _ *Snapshot) {
			d.Live, d.TimeSync = nil, "/nonexistent"
		}, "clock", CheckWarn, "not synchronised"},
		"a name that nobody knows": {func(d *Doctor, _ *Snapshot) {
			d.Fleet = "https://fleet.example:8443"
			d.resolve = func(context.Context, string) ([]string, error) { return nil, errors.New("no such host") }
		}, "dns", CheckFailed, "cannot be resolved"},
		"a broker that is down": {func(d *Doctor, _ *Snapshot) {
			d.Brokers = []string{"tls://" + closed.Addr().String()}
		}, "broker", CheckFailed, "does not answer"},
		"no session with the broker": {func(_ *Doctor, s *Snapshot) {
			s.Broker = Broker{Error: "not authorised"}
		}, "broker", CheckFailed, "not authorised"},
		"somebody else's certificate": {func(d *Doctor, _ *Snapshot) {
			d.Fleet = foreign.URL
			d.Brokers = []string{"tls://" + foreign.Listener.Addr().String()}
			d.TLS = func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }
		}, "fleet", CheckFailed, "TLS fails"},
		"no certificate":                {func(_ *Doctor, s *Snapshot) { s.Box.Enrolled = false }, "certificate", CheckFailed, "no certificate"},
		"an expired certificate":        {func(_ *Doctor, s *Snapshot) { s.Box.CertificateExpires = time.Now().Add(-time.Hour) }, "certificate", CheckFailed, "has expired"},
		"a certificate at its end":      {func(_ *Doctor, s *Snapshot) { s.Box.CertificateExpires = time.Now().Add(50 * time.Hour) }, "certificate", CheckWarn, "expires in 2 days"},
		"no CA installed":               {func(d *Doctor, _ *Snapshot) { d.CAFile = "/nonexistent" }, "trust", CheckFailed, "the fleet's CA"},
		"an expired catalog":            {func(_ *Doctor, s *Snapshot) { s.Catalog.Fresh = false }, "catalog", CheckFailed, "has expired"},
		"no network that can multicast": {func(d *Doctor, _ *Snapshot) { d.MDNS, d.Interfaces = true, []string{"none"} }, "multicast", CheckWarn, "No network interface"},
		"neither mDNS nor names":        {func(d *Doctor, _ *Snapshot) { d.Static = nil }, "multicast", CheckWarn, "no neighbours are named"},
		"a directory that is gone":      {func(d *Doctor, _ *Snapshot) { d.Dirs = []string{"/nonexistent"} }, "disk", CheckFailed, "/nonexistent"},
		"a full disk":                   {func(d *Doctor, _ *Snapshot) { d.Reserve = 1 << 60 }, "disk", CheckWarn, "less than the reserve"},
		"no leave to ping": {func(d *Doctor, _ *Snapshot) {
			d.ping = func() error { return os.NewSyscallError("socket", syscall.EACCES) }
		}, "line", CheckWarn, "no echo requests"},
		"a warning of the daemon": {func(_ *Doctor, s *Snapshot) {
			s.Health = []health.Warning{{Code: "too-hot", Severity: health.Critical, Text: "Hot.", Action: "Cool it."}}
		}, "too-hot", CheckFailed, "Hot."},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := well(t)
			c.harm(&d, s)
			found := c.check == ""
			for _, k := range Diagnose(t.Context(), d) {
				switch {
				case k.Status == CheckOK:
				case k.Action == "":
					t.Errorf("%s: %s, and nothing to do", k.Name, k.Text)
				case k.Name == c.check && k.Status == c.want && strings.Contains(k.Text, c.says):
					found = true
				case c.check == "dns", c.check == "fleet" && k.Name == "broker": // what needs the name fails too
				default:
					t.Errorf("it blames %s: %s", k.Name, k.Text)
				}
			}
			if !found {
				t.Errorf("not found: %+v", Diagnose(t.Context(), d))
			}
		})
	}
}

func TestDoctorKnowsWhoCanDialTheBox(t *testing.T) {
	mapped := PortMapping{Protocol: "UPnP", External: 6880, Address: netip.MustParseAddr("203.0.113.9")}
	behind := mapped
	behind.Behind, behind.Address = true, netip.MustParseAddr("100.64.1.2")
	for _, c := range []struct {
		addr string
		m    *PortMapping
		want CheckStatus
		says string
	}{
		{"203.0.113.7", nil, CheckOK, "is a public address"},
		{"100.64.3.4", nil, CheckWarn, "provider's NAT"},
		{"192.168.1.7", nil, CheckOK, "not asked"},
		{"192.168.1.7", &PortMapping{}, CheckOK, "no need yet"},
		{"192.168.1.7", &mapped, CheckOK, "forwards port 6880 (UPnP): other boxes can dial"},
		{"192.168.1.7", &behind, CheckWarn, "behind another NAT (100.64.1.2)"},
		{"192.168.1.7", &PortMapping{Err: errors.New("the router knows neither")}, CheckWarn, "forwards no port (the router knows neither)"},
		{"2001:db8::7", nil, CheckOK, "if the router's firewall lets them in"},
		{"2001:db8::7", &PortMapping{}, CheckOK, "no need yet"},
		{"2001:db8::7", &PortMapping{Protocol: "PCP", External: 6880}, CheckOK, "lets others in at port 6880 (PCP)"},
		{"2001:db8::7", &PortMapping{Err: errors.New("no answer")}, CheckOK, "opens no port on request (no answer)"},
	} {
		var d Doctor
		if c.m != nil {
			d.Ports = func() PortMapping { return *c.m }
			d.Ports6 = d.Ports
		}
		got := d.reachable(netip.MustParseAddr(c.addr))
		if len(got) != 1 || got[0].Status != c.want || !strings.Contains(got[0].Text, c.says) || (got[0].Action == "") != (c.want == CheckOK) {
			t.Errorf("%s %+v: %+v, want %s with %q", c.addr, c.m, got, c.want, c.says)
		}
	}
}
