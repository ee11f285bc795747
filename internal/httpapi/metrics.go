package httpapi

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"time"

	"boxd/internal/control"
)

// metric is one family of the Prometheus text format.
type metric struct {
	name, kind, help string
	samples          func(*control.Snapshot) []sample
}

// sample is one line of a family; label is `key="value"` without braces, or empty.
type sample struct {
	label string
	value float64
}

func one(f func(*control.Snapshot) float64) func(*control.Snapshot) []sample {
	return func(s *control.Snapshot) []sample { return []sample{{value: f(s)}} }
}

func bySource(f func(*control.Snapshot) control.Sources) func(*control.Snapshot) []sample {
	return func(s *control.Snapshot) []sample {
		v := f(s)
		return []sample{
			{`source="lan"`, float64(v.LAN)}, {`source="peer"`, float64(v.Peer)}, {`source="origin"`, float64(v.Origin)},
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func stamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// families is every metric of a box; docs/metrics.md is checked against it. None has a label per asset or per box.
var families = []metric{
	{"boxd_info", "gauge", "Always 1; the version is a label.", func(s *control.Snapshot) []sample {
		return []sample{{"version=" + strconv.Quote(s.Version), 1}}
	}},
	{
		"boxd_uptime_seconds", "gauge", "Time since boxd started.",
		one(func(s *control.Snapshot) float64 { return s.Uptime }),
	},
	{
		"boxd_enrolled", "gauge", "1 when the box has a certificate of its fleet.",
		one(func(s *control.Snapshot) float64 { return flag(s.Box.Enrolled) }),
	},
	{
		"boxd_certificate_expiry_timestamp_seconds", "gauge", "When the box's certificate expires; 0 without one.",
		one(func(s *control.Snapshot) float64 { return stamp(s.Box.CertificateExpires) }),
	},
	{
		"boxd_clock_trusted", "gauge", "1 when the clock is synchronised or confirmed by the fleet.",
		one(func(s *control.Snapshot) float64 { return flag(s.Clock.Trusted) }),
	},
	{
		"boxd_received_bytes_total", "counter", "Media bytes received, by source.",
		bySource(func(s *control.Snapshot) control.Sources { return s.Fetch.Bytes }),
	},
	{"boxd_sent_bytes_total", "counter", "Media bytes sent to other boxes, by link.", func(s *control.Snapshot) []sample {
		return []sample{{`link="lan"`, float64(s.Fetch.Sent.LAN)}, {`link="wan"`, float64(s.Fetch.Sent.WAN())}}
	}},
	{
		"boxd_wasted_bytes_total", "counter", "Media bytes received and thrown away.",
		one(func(s *control.Snapshot) float64 { return float64(s.Fetch.Wasted) }),
	},
	{
		"boxd_receive_rate_bytes_per_second", "gauge", "Media bytes coming in now, by source.",
		bySource(func(s *control.Snapshot) control.Sources { return s.Fetch.Rates }),
	},
	{
		"boxd_paused", "gauge", "1 when fetching is paused.",
		one(func(s *control.Snapshot) float64 { return flag(s.Fetch.Paused) }),
	},
	{
		"boxd_playback_active", "gauge", "1 when somebody is watching and boxd holds back.",
		one(func(s *control.Snapshot) float64 { return flag(s.Fetch.Playback) }),
	},
	{
		"boxd_player_connections", "gauge", "Open player connections.",
		one(func(s *control.Snapshot) float64 { return float64(s.Fetch.Players) }),
	},
	{"boxd_assets", "gauge", "Assets on this box, by state.", assetsByState},
	{"boxd_assets_late", "gauge", "Assets that will miss their deadline.", one(lateAssets)},
	{
		"boxd_courier_assets", "gauge", "Assets that this box carries over the access line for its home.",
		one(func(s *control.Snapshot) float64 { return float64(s.Fetch.Courier) }),
	},
	{
		"boxd_cache_quota_bytes", "gauge", "Bytes that boxd may use.",
		one(func(s *control.Snapshot) float64 { return float64(s.Cache.Quota) }),
	},
	{
		"boxd_cache_reserved_bytes", "gauge", "Bytes taken by assets, arrived or not.",
		one(func(s *control.Snapshot) float64 { return float64(s.Cache.Reserved) }),
	},
	{
		"boxd_cache_verified_bytes", "gauge", "Verified bytes.",
		one(func(s *control.Snapshot) float64 { return float64(s.Cache.Used) }),
	},
	{
		"boxd_disk_free_bytes", "gauge", "Free bytes of the cache's file system.",
		one(func(s *control.Snapshot) float64 { return float64(s.Cache.Free) }),
	},
	{
		"boxd_catalog_version", "gauge", "Version of the signed catalog; 0 without one.",
		one(func(s *control.Snapshot) float64 { return float64(s.Catalog.Version) }),
	},
	{
		"boxd_catalog_fresh", "gauge", "1 while the catalog has not expired.",
		one(func(s *control.Snapshot) float64 { return flag(s.Catalog.Fresh) }),
	},
	{
		"boxd_catalog_expiry_timestamp_seconds", "gauge", "When the catalog expires; 0 without one.",
		one(func(s *control.Snapshot) float64 { return stamp(s.Catalog.Expires) }),
	},
	{
		"boxd_broker_connected", "gauge", "1 while the MQTT session is up.",
		one(func(s *control.Snapshot) float64 { return flag(s.Broker.Connected) }),
	},
	{
		"boxd_outbox_events", "gauge", "Proofs that the fleet manager has not acknowledged yet.",
		one(func(s *control.Snapshot) float64 { return float64(s.Broker.Pending) }),
	},
	{
		"boxd_household_boxes", "gauge", "Other boxes of the household.",
		one(func(s *control.Snapshot) float64 { return float64(len(s.Home)) }),
	},
	{"boxd_refused_total", "counter", "Connections, messages and hints that were not let in, by cause.", strangers},
	{"boxd_peers", "gauge", "Boxes that bytes are exchanged with, by link.", peersByLink},
	{"boxd_health_warnings", "gauge", "Warnings raised now, by severity.", warningsBySeverity},
	{
		"process_resident_memory_bytes", "gauge", "Resident memory.",
		one(func(s *control.Snapshot) float64 { return float64(s.Process.RSS) }),
	},
	{
		"process_cpu_seconds_total", "counter", "Processor time used.",
		one(func(s *control.Snapshot) float64 { return s.Process.CPUSeconds }),
	},
	{
		"process_open_fds", "gauge", "Open file descriptors.",
		one(func(s *control.Snapshot) float64 { return float64(s.Process.Descriptors) }),
	},
	{
		"go_goroutines", "gauge", "Goroutines.",
		one(func(s *control.Snapshot) float64 { return float64(s.Process.Goroutines) }),
	},
}

func strangers(s *control.Snapshot) []sample {
	c := s.Strangers
	return []sample{
		{`cause="no_certificate"`, float64(c.NoCertificate)},
		{`cause="other_fleet"`, float64(c.OtherFleet)},
		{`cause="expired"`, float64(c.Expired)},
		{`cause="revoked"`, float64(c.Revoked)},
		{`cause="crowded"`, float64(c.Crowded)},
		{`cause="off_link"`, float64(c.OffLink)},
		{`cause="malformed"`, float64(c.Malformed)},
		{`cause="hints_ignored"`, float64(c.HintsIgnored)},
		{`cause="wrong_pieces"`, float64(c.WrongPieces)},
	}
}

func assetsByState(s *control.Snapshot) []sample {
	states := []control.AssetState{
		control.Accepted, control.Fetching, control.Checked, control.Ready, control.Rejected, control.Failed,
	}
	list := make([]sample, len(states))
	for i, st := range states {
		list[i].label = "state=" + strconv.Quote(string(st))
		for _, a := range s.Assets {
			if a.State == st {
				list[i].value++
			}
		}
	}
	return list
}

func lateAssets(s *control.Snapshot) (n float64) {
	for _, a := range s.Assets {
		n += flag(a.Late)
	}
	return n
}

func peersByLink(s *control.Snapshot) []sample {
	list := []sample{{label: `link="lan"`}, {label: `link="wan"`}}
	for _, p := range s.Peers {
		if p.Link == "lan" {
			list[0].value++
		} else {
			list[1].value++
		}
	}
	return list
}

func warningsBySeverity(s *control.Snapshot) []sample {
	list := []sample{{label: `severity="info"`}, {label: `severity="warning"`}, {label: `severity="critical"`}}
	for _, w := range s.Health {
		for i := range list {
			if list[i].label == "severity="+strconv.Quote(string(w.Severity)) {
				list[i].value++
			}
		}
	}
	return list
}

// metrics writes the Prometheus text format, version 0.0.4.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	writeMetrics(w, s.o.Box.Snapshot())
}

func writeMetrics(w io.Writer, snap *control.Snapshot) {
	out := bufio.NewWriter(w)
	for _, m := range families {
		writeFamily(out, m, snap)
	}
	_ = out.Flush() // the reader has gone
}

func writeFamily(out *bufio.Writer, m metric, snap *control.Snapshot) {
	_, _ = out.WriteString("# HELP " + m.name + " " + m.help + "\n# TYPE " + m.name + " " + m.kind + "\n")
	for _, v := range m.samples(snap) {
		_, _ = out.WriteString(m.name)
		if v.label != "" {
			_, _ = out.WriteString("{" + v.label + "}")
		}
		_, _ = out.WriteString(" " + strconv.FormatFloat(v.value, 'g', -1, 64) + "\n")
	}
}
