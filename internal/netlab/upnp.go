//go:build linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// PortMapping says by which protocol a router opens ports when a box asks it: Debian's miniupnpd does it.
type PortMapping string

// What a router may speak.
const (
	UPnP   PortMapping = "upnp"   // UPnP-IGD
	NATPMP PortMapping = "natpmp" // and PCP
)

// mappedRules are natRules with the chains that miniupnpd writes into.
const mappedRules = `table inet home {
	chain miniupnpd { }
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
	chain pre { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
	chain masq { type nat hook postrouting priority 100; jump postrouting_miniupnpd; meta nfproto ipv4 oifname "wan" masquerade; }
	chain forward {
		type filter hook forward priority 0
		jump miniupnpd
		iifname "wan" ct state established,related accept
		iifname "wan" meta l4proto ipv6-icmp accept
		iifname "wan" drop
	}
}`

// mapPorts runs miniupnpd on the router until the lab is closed. The router says that its address outside is a public one,
// because the daemon refuses to work behind another NAT, which the lab's addresses look like.
func (lab *Lab) mapPorts(h *Home, how PortMapping) error {
	dir, err := os.MkdirTemp("", "netlab-upnp")
	if err != nil {
		return err
	}
	lab.dirs = append(lab.dirs, dir)
	yes := map[bool]string{true: "yes", false: "no"}
	conf := filepath.Join(dir, "miniupnpd.conf")
	err = os.WriteFile(conf, fmt.Appendf(nil, `ext_ifname=wan
ext_ip=5.5.5.5
listening_ip=br0
enable_upnp=%s
enable_natpmp=%s
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000000
upnp_table_name=home
upnp_nat_table_name=home
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 0.0.0.0/0 1024-65535
`, yes[how == UPnP], yes[how == NATPMP]), 0o600)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log")) //nolint:gosec // a directory of our own
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Router.Command(ctx, "miniupnpd", "-d", "-f", conf, "-P", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		cancel()
		return fmt.Errorf("miniupnpd: %w", err)
	}
	lab.ends = append(lab.ends, func() {
		cancel()
		_ = cmd.Wait() // it was killed
		_ = log.Close()
	})
	port := map[PortMapping]string{UPnP: ":076C", NATPMP: ":14E7"}[how]
	for range 100 {
		var table []byte
		err := h.Router.Do(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/udp")
			return err
		})
		if err != nil {
			return err
		}
		if strings.Contains(string(table), port+" ") {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	said, err := os.ReadFile(log.Name())
	return errors.Join(fmt.Errorf("miniupnpd does not listen: %s", said), err)
}
