package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Smallest values that make sense; below them the box could not hold anything or would do nothing but sync.
const (
	MinQuota      Size     = 16 << 20
	MinGroupBytes Size     = 256 << 10
	MinPoll       Duration = Duration(time.Second)
	MinMemory     Size     = 16 << 20
)

// MaxDisk is larger than any disk of a box: a larger figure is a slip of the pen.
const MaxDisk Size = 1 << 50

type validator struct{ faults Faults }

func (v *validator) add(key, format string, args ...any) {
	v.faults = append(v.faults, Fault{Key: key, Text: fmt.Sprintf(format, args...)})
}

// Validate returns all faults of the values.
func (c *Config) Validate() Faults {
	v := &validator{}
	v.paths(c)
	v.fleet(c)
	v.bounds(c)
	v.lan(c)
	v.http(c)
	if c.Schedule.Timezone != "" {
		if _, err := time.LoadLocation(c.Schedule.Timezone); err != nil {
			v.add("schedule.timezone", "%v", err)
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		v.add("log.level", "%.40q; want debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		v.add("log.format", "%.40q; want text or json", c.Log.Format)
	}
	return v.faults
}

func (v *validator) path(key, p string) {
	switch {
	case p == "":
		v.add(key, "empty; want a path")
	case !filepath.IsAbs(p):
		v.add(key, "%q is not absolute; a daemon has no useful working directory", p)
	case strings.ContainsRune(p, 0):
		v.add(key, "has a NUL")
	}
}

func (v *validator) paths(c *Config) {
	v.path("paths.cache", c.Paths.Cache)
	v.path("paths.state", c.Paths.State)
	v.path("paths.socket", c.Paths.Socket)
	v.path("paths.timesync", c.Paths.TimeSync)
	if len(c.Paths.Socket) > 107 { // sun_path has 108 bytes with its NUL, see unix(7)
		v.add("paths.socket", "%d bytes long; a unix socket's path has at most 107", len(c.Paths.Socket))
	}
	if c.Paths.Cache != "" && filepath.Clean(c.Paths.Cache) == filepath.Clean(c.Paths.State) {
		v.add("paths.state", "the same directory as paths.cache")
	}
}

func (v *validator) fleet(c *Config) {
	f := &c.Fleet
	if f.URL == "" {
		v.add("fleet.url", "missing; want the https address of the fleet manager")
	}
	for key, u := range map[string]string{
		"fleet.url": f.URL, "fleet.catalog": f.Catalog, "fleet.tracker": f.Tracker, "fleet.upload": f.Upload,
	} {
		switch {
		case u == "":
		case key == "fleet.tracker" && c.Swarm.Insecure && strings.HasPrefix(u, "http:"):
			v.url(key, u, "http") // stock clients have no certificate to show
		default:
			v.url(key, u, "https")
		}
	}
	for _, b := range f.Brokers {
		v.url("fleet.brokers", b, "tls")
	}
	v.path("fleet.ca", f.CA)
	v.path("fleet.root", f.Root)
	if f.TokenFile != "" {
		v.path("fleet.token_file", f.TokenFile)
		if f.Token != "" {
			v.add("fleet.token", "both token and token_file are set; keep one")
		}
	}
	if f.Poll < MinPoll {
		v.add("fleet.poll", "%v; want at least %v", f.Poll, MinPoll)
	}
}

func (v *validator) url(key, s, scheme string) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		v.add(key, "%v", err)
	case u.Scheme != scheme || u.Host == "":
		v.add(key, "%q; want %s://host:port", s, scheme)
	case u.User != nil:
		v.add(key, "has a user name or password; the box shows its certificate instead")
	case scheme == "tls" && u.Port() == "":
		v.add(key, "%q has no port; want tls://host:8883", s)
	}
}

func (v *validator) bounds(c *Config) {
	if c.Cache.Quota < MinQuota {
		v.add("cache.quota", "%v; want at least %v", c.Cache.Quota, MinQuota)
	}
	if c.Cache.Quota > MaxDisk {
		v.add("cache.quota", "%v; want at most %v", c.Cache.Quota, MaxDisk)
	}
	if c.Cache.Reserve > MaxDisk {
		v.add("cache.reserve", "%v; want at most %v", c.Cache.Reserve, MaxDisk)
	}
	if c.Cache.GroupBytes < MinGroupBytes {
		v.add("cache.group_bytes", "%v; want at least %v", c.Cache.GroupBytes, MinGroupBytes)
	}
	if d := c.Cache.GroupInterval.Std(); d < 10*time.Millisecond || d > 5*time.Minute {
		v.add("cache.group_interval", "%v; want 10ms to 5m", d)
	}
	if c.Swarm.MaxPeers < 1 || c.Swarm.MaxPeers > 200 {
		v.add("swarm.max_peers", "%d; want 1 to 200", c.Swarm.MaxPeers)
	}
	if c.Limits.UploadSlots < 0 || c.Limits.UploadSlots > 100 {
		v.add("limits.upload_slots", "%d; want 0 to 100", c.Limits.UploadSlots)
	}
	if c.Limits.Memory < MinMemory {
		v.add("limits.memory", "%v; want at least %v", c.Limits.Memory, MinMemory)
	}
}

func (v *validator) lan(c *Config) {
	v.listen("swarm.listen", c.Swarm.Listen)
	for _, s := range c.LAN.Static {
		v.listen("lan.static", s)
	}
	for _, s := range c.LAN.Prefixes {
		switch p, err := netip.ParsePrefix(s); {
		case err != nil:
			v.add("lan.prefixes", "%v", err)
		case p.Bits() == 0:
			v.add("lan.prefixes", "%q is the whole internet, which would then cost no budget; name the home's own", s)
		}
	}
}

func (v *validator) listen(key, s string) (host string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		v.add(key, "%q; want host:port", s)
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		v.add(key, "port %q; want 0 to 65535", port)
	} else if key == "lan.static" && n == 0 {
		v.add(key, "%q has port 0", s)
	}
	return host
}

func (v *validator) http(c *Config) {
	h := &c.HTTP
	host := v.listen("http.listen", h.Listen)
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		v.add("http.listen", "%q is not loopback; the page for other devices is http.lan_listen", h.Listen)
	}
	if h.LANListen != "" {
		v.listen("http.lan_listen", h.LANListen)
	}
	if h.TokenFile != "" {
		v.path("http.token_file", h.TokenFile)
	}
	for _, o := range h.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.TrimRight(o,
			"/") != u.Scheme+"://"+u.Host {
			v.add("http.origins", "%q; want scheme://host[:port] without a path", o)
		}
	}
	if h.MaxPlayers < 1 || h.MaxPlayers > 1024 {
		v.add("http.max_players", "%d; want 1 to 1024", h.MaxPlayers)
	}
}
