// Package control is the box as one thing: one Snapshot of what it is and does, one Do for what can be asked of it, over
// all services below. MQTT, HTTP and the command line are its faces and see the box only through it.
//
// Invariants: a Snapshot is a value that nobody changes after it was returned; its JSON form only grows within one
// Schema; lists are never null. Do never blocks longer than its context and answers every command, unknown ones too.
// No secret (token, key, certificate key) is in a Snapshot, a Result or a bug report.
package control

import (
	"fmt"
	"time"

	"boxd/internal/asset"
	"boxd/internal/health"
)

// Schema is the version of Snapshot's JSON form; it changes only when a field changes its meaning or goes away.
const Schema = 1

// Snapshot is the whole box at one moment, as `boxd status --json` and GET /api/v1/status give it.
type Snapshot struct {
	Schema    int              `json:"schema"`
	Time      time.Time        `json:"time"`    // by the box's clock, see Clock
	Version   string           `json:"version"` // of boxd
	Uptime    float64          `json:"uptime_seconds"`
	State     State            `json:"state"`
	Summary   string           `json:"summary"` // one sentence in plain words
	Box       Self             `json:"box"`
	Clock     Clock            `json:"clock"`
	Cache     Cache            `json:"cache"`
	Catalog   Catalog          `json:"catalog"`
	Broker    Broker           `json:"broker"`
	Fetch     Fetch            `json:"fetch"`
	Assets    []Asset          `json:"assets"` // unfinished ones first, most urgent first
	Campaigns []Campaign       `json:"campaigns"`
	Home      []Neighbour      `json:"home"` // the other boxes of the household
	Peers     []Peer           `json:"peers"`
	Given     []Given          `json:"given"`     // who gave what to this box and got what from it, also boxes that are gone
	Strangers Strangers        `json:"strangers"` // who was not let in
	Health    []health.Warning `json:"health"`
	Process   Process          `json:"process"`
}

// State is the box in one word.
type State string

// The states, by what a person would want to know first.
const (
	StateEnrolling State = "enrolling" // has no certificate yet
	StateAttention State = "attention" // a critical warning is raised
	StatePaused    State = "paused"
	StateFetching  State = "fetching"
	StateWaiting   State = "waiting" // something is wanted, but not now
	StateIdle      State = "idle"    // everything that is wanted is here
)

// Self says who the box is.
type Self struct {
	ID                 string    `json:"id"` // empty until enrolled
	Fleet              string    `json:"fleet"`
	Group              string    `json:"group"`
	Host               string    `json:"host"`
	HTTP               string    `json:"http"` // base address of the loopback server, such as http://127.0.0.1:8480
	Enrolled           bool      `json:"enrolled"`
	CertificateExpires time.Time `json:"certificate_expires,omitzero"`
}

// Clock says whether times can be believed.
type Clock struct {
	Now      time.Time `json:"now"` // the later of the system's clock and the persisted floor
	Trusted  bool      `json:"trusted"`
	Timezone string    `json:"timezone"`
	Offset   int       `json:"utc_offset_seconds"` // of the box's local time, east positive
}

// Cache is the disk.
type Cache struct {
	Quota     int64 `json:"quota_bytes"`
	Effective int64 `json:"effective_quota_bytes"` // less than Quota when others fill the disk
	Reserved  int64 `json:"reserved_bytes"`        // taken by assets, arrived or not
	Used      int64 `json:"used_bytes"`            // verified bytes
	Reserve   int64 `json:"reserve_bytes"`         // kept free for others
	Free      int64 `json:"disk_free_bytes"`
	Total     int64 `json:"disk_total_bytes"`
	ReadOnly  bool  `json:"read_only"`
}

// Catalog is what the box believes.
type Catalog struct {
	Version int64     `json:"version"` // 0: none yet
	Expires time.Time `json:"expires,omitzero"`
	Fresh   bool      `json:"fresh"`
	Assets  int       `json:"assets"`
}

// Broker is the MQTT session.
type Broker struct {
	Connected bool      `json:"connected"`
	Address   string    `json:"address"`
	Since     time.Time `json:"since,omitzero"`
	Error     string    `json:"error"`   // why the last try failed
	Pending   int       `json:"pending"` // proofs of arrival that the fleet manager has not acknowledged
}

// Sources is bytes, or bytes a second, by where they came from.
type Sources struct {
	LAN    int64 `json:"lan"`
	Peer   int64 `json:"peer"` // WAN peers
	Origin int64 `json:"origin"`
}

// Total is the sum of all sources.
func (s Sources) Total() int64 { return s.LAN + s.Peer + s.Origin }

// WAN is what crossed the access line.
func (s Sources) WAN() int64 { return s.Peer + s.Origin }

// Fetch is what moves.
type Fetch struct {
	Paused   bool    `json:"paused"`
	Playback bool    `json:"playback"` // a player is active: boxd holds back
	Players  int     `json:"players"`  // open player connections
	Rates    Sources `json:"rates"`    // bytes a second coming in
	Bytes    Sources `json:"bytes"`    // received since the state file was made
	SentRate Sources `json:"sent_rates"`
	Sent     Sources `json:"sent"`
	Wasted   int64   `json:"wasted_bytes"` // received and thrown away
	Limits   Limits  `json:"limits"`
	MonthWAN int64   `json:"month_wan_bytes"` // over the access line in this calendar month, both ways
	LineRate int64   `json:"line_rate"`       // bytes a second that the line gave lately when asked for all; 0: not known
	Courier  int     `json:"courier_of"`      // assets that this box carries over the access line for the home
}

// Limits bounds the access line; null means no limit, 0 stops.
type Limits struct {
	WANDown *int64 `json:"wan_down"` // bytes a second
	WANUp   *int64 `json:"wan_up"`   // bytes a second
}

// AssetState is how far an asset has come (docs/mqtt.md has the same words).
type AssetState string

// The states of an asset.
const (
	Accepted AssetState = "accepted" // wanted; nothing has moved yet
	Fetching AssetState = "fetching"
	Checked  AssetState = "verified" // every byte is here and verified, and being made durable
	Ready    AssetState = "ready"
	Rejected AssetState = "rejected" // cannot be taken; Code says why
	Failed   AssetState = "failed"
)

// Asset is one asset on this box, or on its way to it.
type Asset struct {
	ID         asset.ID   `json:"id"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Publisher  string     `json:"publisher"`
	State      AssetState `json:"state"`
	Code       string     `json:"code"`   // of rejected and failed
	Reason     string     `json:"reason"` // code of why
	Why        string     `json:"why"`    // one sentence: why it is or is not being fetched
	Campaign   string     `json:"campaign"`
	Length     int64      `json:"length"`
	Verified   int64      `json:"verified"` // bytes
	Pieces     int        `json:"pieces"`
	HavePieces int        `json:"verified_pieces"`
	Role       string     `json:"role"`    // courier, follower, alone or empty
	Courier    string     `json:"courier"` // box id when another box carries it
	Peers      int        `json:"peers"`   // connections
	Rate       int64      `json:"rate"`    // bytes a second coming in
	Rates      Sources    `json:"rates"`   // the same by source
	Bytes      Sources    `json:"bytes"`   // received so far
	Priority   int        `json:"priority"`
	Deadline   time.Time  `json:"deadline,omitzero"`
	KeepUntil  time.Time  `json:"keep_until,omitzero"`
	ETA        time.Time  `json:"eta,omitzero"`
	Danger     bool       `json:"danger"` // the deadline may be missed
	Late       bool       `json:"late"`   // it will be
	Started    time.Time  `json:"started,omitzero"`
	Completed  time.Time  `json:"completed,omitzero"`
	Counting   time.Time  `json:"-"` // when Bytes began to count
	Pinned     bool       `json:"pinned"`
	Readers    int        `json:"readers"`
	ReadBack   int64      `json:"read_back"` // bytes that a verify that is running has read back; 0 when none runs
	Files      []File     `json:"files"`     // at most MaxFiles
	FileCount  int        `json:"file_count"`
}

// MaxFiles bounds the files that a Snapshot lists for one asset; GET /api/v1/assets/<id> has them all.
const MaxFiles = 8

// File is one file of an asset.
type File struct {
	Path   string `json:"path"`
	Length int64  `json:"length"`
	Type   string `json:"type"` // content type
	URL    string `json:"url"`  // path on the box's own HTTP address
}

// Campaign is an operator's wish that concerns this box.
type Campaign struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Group     string     `json:"group"`
	Assets    []asset.ID `json:"assets"`
	NotBefore time.Time  `json:"not_before,omitzero"`
	Deadline  time.Time  `json:"deadline,omitzero"`
	KeepUntil time.Time  `json:"keep_until,omitzero"`
	Priority  int        `json:"priority"`
	Paused    bool       `json:"paused"`
	Windows   []Window   `json:"windows"` // none: any time
}

// Window is a span of local time in which a campaign may use the WAN.
type Window struct {
	Days []string `json:"days"` // mon..sun; none: every day
	From string   `json:"from"` // HH:MM
	To   string   `json:"to"`   // HH:MM; not after From: the next day
	Rate *int64   `json:"rate"` // bytes a second; null: no limit, 0: stopped
}

// Neighbour is another box of the household.
type Neighbour struct {
	ID       string    `json:"id"`
	Address  string    `json:"address"`
	Class    int       `json:"class"`      // 0 is best
	WAN      bool      `json:"wan"`        // it can reach the access line
	Courier  int       `json:"courier_of"` // assets that it carries over the access line
	Health   string    `json:"health"`     // severity of its worst warning; empty: none
	Holds    int       `json:"holds"`      // assets that it has whole
	Wants    int       `json:"wants"`
	Since    time.Time `json:"since,omitzero"`
	LastSeen time.Time `json:"last_seen,omitzero"`
	RTT      float64   `json:"rtt_seconds"`
	Received int64     `json:"received_bytes"` // by us from it
	Sent     int64     `json:"sent_bytes"`     // by us to it
	Got      []Got     `json:"got"`            // what it says that it got over the LAN, by box
	WANGot   int64     `json:"wan_got_bytes"`  // what it says that it got over the access line
}

// Got is how many bytes one box of the home got from another.
type Got struct {
	ID    string `json:"id"`
	Bytes int64  `json:"bytes"`
}

// Peer is one box that this box exchanges bytes with.
type Peer struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Link     string `json:"link"` // lan or wan
	Asset    string `json:"asset"`
	Received int64  `json:"received_bytes"`
	Sent     int64  `json:"sent_bytes"`
	RateIn   int64  `json:"rate_in"`
	RateOut  int64  `json:"rate_out"`
}

// Given is what this box and another have given each other: over the LAN since the state file was made, over the access
// line since this run began. The Received of those on the LAN adds up to Fetch.Bytes.LAN.
type Given struct {
	ID       string `json:"id"`   // empty: boxes beyond those that are counted by name
	Link     string `json:"link"` // lan or wan
	Received int64  `json:"received_bytes"`
	Sent     int64  `json:"sent_bytes"`
}

// Process is what boxd itself costs.
type Process struct {
	PID         int     `json:"pid"`
	RSS         int64   `json:"rss_bytes"`
	PeakRSS     int64   `json:"peak_rss_bytes"`
	CPUSeconds  float64 `json:"cpu_seconds"`
	Goroutines  int     `json:"goroutines"`
	Descriptors int     `json:"descriptors"`
}

// shortestRef is how much of an id or a name must be given at least, in bytes.
const shortestRef = 3

// Asset finds an asset by its id, by its name, or by the beginning of either when only one begins so.
func (s *Snapshot) Asset(ref string) (Asset, bool) {
	var found Asset
	n := 0
	for _, a := range s.Assets {
		id := a.ID.String()
		if id == ref || a.Name == ref {
			return a, true
		}
		if len(ref) >= shortestRef && (hasPrefix(id, ref) || hasPrefix(a.Name, ref)) {
			found, n = a, n+1
		}
	}
	return found, n == 1
}

// Choose is Asset for people: the error says what else to type.
func (s *Snapshot) Choose(ref string) (Asset, error) {
	if a, ok := s.Asset(ref); ok {
		return a, nil
	}
	n := 0
	for _, a := range s.Assets {
		if ref != "" && (hasPrefix(a.ID.String(), ref) || hasPrefix(a.Name, ref)) {
			n++
		}
	}
	switch n {
	case 0:
		return Asset{}, fmt.Errorf("no asset of this box is called %.80q; boxd assets lists them", ref)
	case 1:
		return Asset{}, fmt.Errorf("%.80q is too short; at least %d characters of an asset's id or name are needed", ref, shortestRef)
	default:
		return Asset{}, fmt.Errorf("%d assets of this box begin with %.80q; boxd assets lists them", n, ref)
	}
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }
