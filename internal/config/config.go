// Package config reads boxd.toml: one strict TOML file, every path settable, BOXD_* environment variables on top.
//
// Invariants: a Config that Load returned is complete (defaults filled in) and valid; a file with any fault gives no
// Config but all its faults at once, each with its line; keys that are not known are faults, never ignored.
package config

import (
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Config is the whole configuration of a box. docs/config.md explains every key.
type Config struct {
	Paths    Paths    `toml:"paths"`
	Fleet    Fleet    `toml:"fleet"`
	Cache    Cache    `toml:"cache"`
	Swarm    Swarm    `toml:"swarm"`
	LAN      LAN      `toml:"lan"`
	HTTP     HTTP     `toml:"http"`
	Limits   Limits   `toml:"limits"`
	Schedule Schedule `toml:"schedule"`
	Log      Log      `toml:"log"`
}

// Paths says where things are.
type Paths struct {
	Cache    string `toml:"cache"`    // media: blobs and staging
	State    string `toml:"state"`    // index, catalog, identity, outbox
	Socket   string `toml:"socket"`   // unix socket of the command line
	TimeSync string `toml:"timesync"` // exists when the clock is synchronised
}

// Fleet says whom the box belongs to.
type Fleet struct {
	URL       string   `toml:"url"`        // https base of fleetd; enrolment, catalog, tracker, origin and upload hang off it
	CA        string   `toml:"ca"`         // PEM of the fleet's root certificate
	Root      string   `toml:"root"`       // the catalog's trusted root.json
	Token     string   `toml:"token"`      // enrolment token; token_file is better
	TokenFile string   `toml:"token_file"` // file that holds the enrolment token
	Brokers   []string `toml:"brokers"`    // tls://host:port
	Catalog   string   `toml:"catalog"`    // base of the TUF repository; "" means <url>/tuf
	Tracker   string   `toml:"tracker"`    // announce URL; "" means <url>/announce
	Upload    string   `toml:"upload"`     // where logs and bug reports go; "" means <url>/upload
	Poll      Duration `toml:"poll"`       // how often the catalog is looked at without a bell
}

// Cache bounds the disk.
type Cache struct {
	Quota         Size     `toml:"quota"`          // bytes that boxd may use
	Reserve       Size     `toml:"reserve"`        // bytes that boxd leaves free
	GroupBytes    Size     `toml:"group_bytes"`    // verified bytes between two syncs
	GroupInterval Duration `toml:"group_interval"` // longest time between two syncs
	ScrubPeriod   Duration `toml:"scrub_period"`   // every byte is read back once in this time; 0 means never
	ScrubRate     Rate     `toml:"scrub_rate"`     // at most so fast
}

// Swarm is the mutual-TLS listener for other boxes.
type Swarm struct {
	Listen   string `toml:"listen"`
	MaxPeers int    `toml:"max_peers"` // connections per asset
	// PortMapping asks the home's router to let boxes of other homes in (NAT-PMP, UPnP-IGD).
	PortMapping bool `toml:"port_mapping"`
	// Insecure turns transport security off: a test fleet only.
	Insecure bool `toml:"insecure"`
}

// LAN says how to find the other boxes of the home.
type LAN struct {
	MDNS       bool     `toml:"mdns"`
	Static     []string `toml:"static"`     // host:port of neighbours where there is no multicast
	Prefixes   []string `toml:"prefixes"`   // CIDR that counts as the home's beside what is on link
	Interfaces []string `toml:"interfaces"` // names; empty means all that are up
	// RemoteReads lets players play from the other boxes what has no room in the cache, and answers theirs.
	RemoteReads bool `toml:"remote_reads"`
}

// HTTP is the loopback server, and the read-only page for the home's other devices.
type HTTP struct {
	Listen     string   `toml:"listen"`
	Origins    []string `toml:"origins"`     // web origins that may read (CORS)
	TokenFile  string   `toml:"token_file"`  // made at start when absent; "" means <state>/http.token
	LANListen  string   `toml:"lan_listen"`  // "" means off
	MaxPlayers int      `toml:"max_players"` // open player connections
}

// Limits bounds what boxd takes from the home. A key that is absent is no limit, 0 stops. Remote configuration may narrow
// them, never widen.
type Limits struct {
	WANDown     RateLimit `toml:"wan_down"`     // bytes a second
	WANUp       RateLimit `toml:"wan_up"`       // bytes a second
	LAN         RateLimit `toml:"lan"`          // bytes a second between boxes of the home, both ways together
	MonthlyWAN  SizeLimit `toml:"monthly_wan"`  // bytes over the access line in a calendar month, both ways
	UploadRatio Ratio     `toml:"upload_ratio"` // bytes sent over the access line for each byte of an asset; 0: none
	UploadSlots int       `toml:"upload_slots"` // boxes of other homes served at one time from a complete asset; 0: none
	Yield       bool      `toml:"yield"`        // keep the access line's queue empty, and leave the line to others
	Probe       bool      `toml:"probe"`        // ping the first router behind the access line for it
	Memory      Size      `toml:"memory"`       // soft limit of the Go heap
}

// Schedule is how the box reads times of day, and what they do not bind.
type Schedule struct {
	Timezone           string `toml:"timezone"`             // IANA name; "" means the system's
	PlayOutsideWindows bool   `toml:"play_outside_windows"` // what somebody plays may use the access line at any time
}

// Log says what goes to standard error.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn, error
	Format string `toml:"format"` // text or json
}

// Default is the configuration of a box whose file says nothing.
func Default() Config {
	return Config{
		Paths: Paths{
			Cache: "/var/cache/boxd", State: "/var/lib/boxd", Socket: "/run/boxd/boxd.sock",
			TimeSync: "/run/systemd/timesync/synchronized",
		},
		Fleet: Fleet{CA: "/etc/boxd/ca.pem", Root: "/etc/boxd/root.json", Poll: Duration(15 * time.Minute)},
		Cache: Cache{
			Quota: 20 << 30, Reserve: 1 << 30, GroupBytes: 8 << 20, GroupInterval: Duration(2 * time.Second),
			ScrubPeriod: Duration(30 * 24 * time.Hour), ScrubRate: 4 << 20,
		},
		Swarm:    Swarm{Listen: ":6880", MaxPeers: 24, PortMapping: true},
		LAN:      LAN{MDNS: true, RemoteReads: true},
		HTTP:     HTTP{Listen: "127.0.0.1:8480", MaxPlayers: 64},
		Limits:   Limits{UploadRatio: 2, UploadSlots: 8, Yield: true, Probe: true, Memory: 64 << 20},
		Schedule: Schedule{PlayOutsideWindows: true},
		Log:      Log{Level: "info", Format: "text"},
	}
}

// Location is the time zone for windows.
func (c *Config) Location() *time.Location {
	if c.Schedule.Timezone == "" {
		return time.Local
	}
	loc, err := time.LoadLocation(c.Schedule.Timezone)
	if err != nil { // Validate refused it already
		return time.Local
	}
	return loc
}

// PrefixList is LAN.Prefixes parsed.
func (c *Config) PrefixList() []netip.Prefix {
	list := make([]netip.Prefix, 0, len(c.LAN.Prefixes))
	for _, s := range c.LAN.Prefixes {
		if p, err := netip.ParsePrefix(s); err == nil { // Validate refused the others
			list = append(list, p.Masked())
		}
	}
	return list
}

// Redacted is a copy without secrets.
func (c *Config) Redacted() Config {
	r := *c
	if r.Fleet.Token != "" {
		r.Fleet.Token = "[removed]"
	}
	return r
}

// Differences names the keys in which two configurations differ, but for those that are excepted.
func (c *Config) Differences(other *Config, except ...string) []string {
	var list []string
	a, b := reflect.ValueOf(c).Elem(), reflect.ValueOf(other).Elem()
	for i := range a.NumField() {
		section := a.Type().Field(i).Tag.Get("toml")
		for j := range a.Field(i).NumField() {
			key := section + "." + a.Field(i).Type().Field(j).Tag.Get("toml")
			if !slices.Contains(except, key) && !reflect.DeepEqual(a.Field(i).Field(j).Interface(),
				b.Field(i).Field(j).Interface()) {
				list = append(list, key)
			}
		}
	}
	return list
}
