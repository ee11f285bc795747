package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// router answers NAT-PMP requests on a loopback address of its own and hands over what it was asked.
func router(t *testing.T, addr string) <-chan [2]uint32 {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr+":5351")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	asked := make(chan [2]uint32, 10)
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if b[0] != 0 { // PCP, for one
				_, _ = pc.WriteTo([]byte{0, 128 | b[1], 0, 1, 0, 0, 0, 1}, from)
				continue
			}
			if n == 2 { // its address
				_, _ = pc.WriteTo([]byte{0, 128, 0, 0, 0, 0, 0, 1, 203, 0, 113, 9}, from)
			}
			if n != 12 || b[1] != 2 {
				continue
			}
			life := binary.BigEndian.Uint32(b[8:])
			asked <- [2]uint32{uint32(binary.BigEndian.Uint16(b[4:])), life}
			res := make([]byte, 16)
			res[1] = 128 + 2
			copy(res[8:10], b[4:6])
			binary.BigEndian.PutUint16(res[10:], 40_000) // another port than was asked for
			binary.BigEndian.PutUint32(res[12:], life)
			_, _ = pc.WriteTo(res, from)
		}
	}()
	return asked
}

func TestNATPMPMapsRenewsAndGivesBack(t *testing.T) {
	asked := router(t, "127.0.0.77")
	m := &Mapper{Port: 6880, Gateway: func() (netip.Addr, error) { return netip.MustParseAddr("127.0.0.77"), nil }}
	if m.External() != 6880 {
		t.Fatal(m.External())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	if a := <-asked; a[0] != 6880 || a[1] != uint32(lease.Seconds()) {
		t.Fatal(a)
	}
	for m.External() != 40_000 {
		select {
		case <-t.Context().Done():
			t.Fatal("not mapped")
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if a := <-asked; a[1] != 0 {
		t.Fatalf("given back with a life of %d s", a[1])
	}
}

// upnpRouter answers SSDP and SOAP on a loopback address of its own, as a router with UPnP-IGD does.
type upnpRouter struct {
	addr  netip.Addr
	ssdp  int
	taken map[int]bool // external ports

	mu     sync.Mutex // guards mapped
	mapped map[int]string
	bodies string // what the description is
}

const describe = `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType><controlURL>/x</controlURL></service>
</serviceList><deviceList><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>`

func newUPnP(t *testing.T, addr string, taken ...int) *upnpRouter {
	t.Helper()
	r := &upnpRouter{addr: netip.MustParseAddr(addr), taken: map[int]bool{}, mapped: map[int]string{}, bodies: describe}
	for _, p := range taken {
		r.taken[p] = true
	}
	ln, err := net.Listen("tcp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(ln) }()
	pc, err := net.ListenPacket("udp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close(); _ = pc.Close() })
	r.ssdp = pc.LocalAddr().(*net.UDPAddr).Port
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if !strings.HasPrefix(string(b[:n]), "M-SEARCH * HTTP/1.1\r\n") {
				continue
			}
			_, _ = pc.WriteTo([]byte("HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"+
				"LOCATION: http://"+ln.Addr().String()+"/desc.xml\r\n\r\n"), from)
		}
	}()
	return r
}

func (r *upnpRouter) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Method == http.MethodGet {
		_, _ = io.WriteString(w, r.bodies)
		return
	}
	body, _ := io.ReadAll(req.Body)
	arg := func(name string) string {
		_, after, _ := strings.Cut(string(body), "<"+name+">")
		val, _, _ := strings.Cut(after, "<")
		return val
	}
	port, _ := strconv.Atoi(arg("NewExternalPort"))
	_, action, _ := strings.Cut(strings.Trim(req.Header.Get("SOAPAction"), `"`), "#")
	switch {
	case action == "GetExternalIPAddress":
		_, _ = io.WriteString(w, `<s:Envelope xmlns:s="s"><s:Body><u:GetExternalIPAddressResponse xmlns:u="u">`+
			`<NewExternalIPAddress>10.0.0.9</NewExternalIPAddress></u:GetExternalIPAddressResponse></s:Body></s:Envelope>`)
	case action == "DeletePortMapping":
		delete(r.mapped, port)
	case r.taken[port] || arg("NewLeaseDuration") != "3600":
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `<s:Envelope xmlns:s="s"><s:Body><s:Fault><detail><UPnPError xmlns="x"><errorCode>718</errorCode>`+
			`<errorDescription>ConflictInMappingEntry</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`)
	default:
		r.mapped[port] = arg("NewInternalClient") + ":" + arg("NewInternalPort")
	}
}

func (r *upnpRouter) mapper() (*Mapper, <-chan Mapping) {
	told := make(chan Mapping, 8)
	return &Mapper{
		Port: 6880, Name: "box-a", ssdp: r.ssdp, Gateway: func() (netip.Addr, error) { return r.addr, nil },
		Changed: func(m Mapping) { told <- m },
	}, told
}

func TestUPnPMapsAnotherPortWhenItsOwnIsTakenAndGivesItBack(t *testing.T) {
	r := newUPnP(t, "127.0.0.78", 6880)
	m, told := r.mapper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	got := <-told
	if got.Protocol != "UPnP" || got.External < 20_000 || !got.Behind() || m.External() != got.External {
		t.Fatalf("%+v", got)
	}
	r.mu.Lock()
	if to := r.mapped[got.External]; !strings.HasPrefix(to, "127.0.0.") || !strings.HasSuffix(to, ":6880") {
		t.Errorf("mapped to %s", to)
	}
	r.mu.Unlock()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(r.mapped) != 0 || m.External() != 6880 {
		t.Errorf("left behind: %v", r.mapped)
	}
}

func TestRoutersThatMapNothing(t *testing.T) {
	for name, body := range map[string]string{
		"no such service": `<root><device/></root>`,
		"not XML":         "<<<",
		"elsewhere":       strings.Replace(describe, "/ctl", "http://198.51.100.1/ctl", 1),
		"endless":         "<root>" + strings.Repeat("x", 2*maxReply),
	} {
		r := newUPnP(t, "127.0.0.79")
		r.bodies = body
		m, _ := r.mapper()
		m.Log = slog.New(slog.DiscardHandler)
		if got, err := m.igd(t.Context(), r.addr, 6880); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	m := &Mapper{Port: 6880, Log: slog.New(slog.DiscardHandler)}
	if wait := m.renew(t.Context(), netip.Addr{}, errors.New("no route")); wait < giveUp || m.Mapping().Err == nil {
		t.Errorf("asked again after %v: %+v", wait, m.Mapping())
	}
}

func TestNothingIsAskedWhenNothingIsNeeded(t *testing.T) {
	asked := make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancel(t.Context())
	m := &Mapper{
		Port: 6880, Gateway: func() (netip.Addr, error) { return netip.MustParseAddr("127.0.0.80"), nil },
		Needed:  func(context.Context) bool { once.Do(func() { close(asked) }); return false },
		Changed: func(m Mapping) { t.Errorf("told of %+v", m) },
	}
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	<-asked
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestParseRoutes6(t *testing.T) {
	const table = `20010db8000100000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001 00000800 00000001 00000000 00000003     wlan0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`
	if gw, err := parseRoutes6(table); err != nil || gw.String() != "fe80::1%eth0" {
		t.Errorf("%s, %v", gw, err)
	}
	first, _, _ := strings.Cut(table, "\n")
	for _, bad := range []string{"", "nonsense\n", first} {
		if gw, err := parseRoutes6(bad); err == nil {
			t.Errorf("%q: %s", bad, gw)
		}
	}
}

func TestParseRoutes(t *testing.T) {
	table := "Iface\tDestination\tGateway \tFlags\neth0\t0011AC0A\t00000000\t0001\neth0\t00000000\t0111AC0A\t0003\n"
	if a, err := parseRoutes(table); err != nil || a != netip.MustParseAddr("10.172.17.1") {
		t.Fatal(a, err)
	}
	for _, bad := range []string{"", "x", "eth0 00000000 zz 1", "eth0 00000000 00000000 1"} {
		if _, err := parseRoutes(bad); err == nil {
			t.Errorf("%q has a gateway", bad)
		}
	}
}

// A router that does not answer once has not taken the mapping back: it is asked again until the lease ends.
func TestAMappingOutlivesARenewalThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gw, silent := netip.MustParseAddr("127.0.0.81"), false
		m := &Mapper{Port: 6880, Log: slog.New(slog.DiscardHandler)}
		m.ask = func(context.Context, netip.Addr, int) Mapping {
			if silent {
				return Mapping{Err: errors.New("no answer")}
			}
			return Mapping{Protocol: "NAT-PMP", External: 40_000, life: 20 * time.Minute}
		}
		after := func(d time.Duration) time.Duration {
			<-time.After(d)
			return m.renew(t.Context(), gw, nil)
		}
		d := after(0)
		if d > 10*time.Minute || d < 7*time.Minute {
			t.Errorf("a mapping for 20 minutes is renewed after %s", d)
		}
		silent = true
		d = after(d)
		if m.External() != 40_000 || d != look {
			t.Errorf("given up, or asked again after %s", d)
		}
		if d = after(d); m.External() != 40_000 || d != 2*look {
			t.Errorf("given up, or asked again after %s the second time", d)
		}
		silent = false
		if d = after(d); d < 7*time.Minute || m.External() != 40_000 {
			t.Errorf("renewed, and again after %s", d)
		}
		silent = true
		begin := time.Now()
		for m.External() == 40_000 && time.Since(begin) < time.Hour {
			d = after(d)
		}
		if lived := time.Since(begin); lived != 20*time.Minute || d < giveUp {
			t.Errorf("held for %s of 20 minutes, then asked again after %s", lived, d)
		}
		silent = false
		after(d)
		silent = true
		if d = m.renew(t.Context(), netip.MustParseAddr("127.0.0.82"), nil); m.External() != 6880 || d < giveUp {
			t.Error("the mapping of another router is kept")
		}
	})
}
