package mqttwire

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"boxd/internal/asset"
)

// Bounds on lists inside payloads.
const (
	MaxAssets = 20 // unfinished assets in one Reported; More counts the rest
	MaxHealth = 16 // warnings in one Reported
	MaxHome   = 16 // boxes of the home in one Reported
	MaxText   = 400
	MaxData   = 5 << 10 // bytes of a command's result; more goes by HTTPS upload
)

// State says whether the box is there. It is retained, and with Online false and Seq 0 it is the session's will.
type State struct {
	Envelope
	Online   bool   `json:"online"`
	Software string `json:"software,omitempty"` // the daemon's version
	Reason   string `json:"reason,omitempty"`   // why it went: "stopping", "will"
}

// Check implements Checker.
func (s *State) Check() error {
	return firstErr(s.check(), text("software", s.Software), text("reason", s.Reason))
}

// The states of an asset on a box, in order.
const (
	Accepted = "accepted" // in the plan
	Fetching = "fetching"
	Verified = "verified" // every byte is there and hashed
	Ready    = "ready"    // durable, may be played
	Rejected = "rejected" // will not be fetched: see Code
	Failed   = "failed"   // was tried: see Code
)

// AssetProgress is one asset that is not ready.
type AssetProgress struct {
	ID    asset.ID `json:"id"`
	State string   `json:"state"`
	Code  string   `json:"code,omitempty"` // of rejected and failed, kebab-case
	Have  int64    `json:"verified"`       // bytes that are there and hashed
	Size  int64    `json:"length"`         // bytes
	Bytes Traffic  `json:"bytes"`          // where what came came from
	ETA   int64    `json:"eta_s,omitempty"`
	Role  string   `json:"role,omitempty"`    // "courier", "follower" or "alone"
	Late  bool     `json:"at_risk,omitempty"` // the deadline is in danger
	Why   string   `json:"why,omitempty"`     // one sentence
}

// Holdings is a digest of what the box holds whole. The list itself goes by HTTPS upload when its digest changed.
type Holdings struct {
	Count  int    `json:"count"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"` // HoldingsDigest of the ids
}

// Traffic is cumulative bytes since the state file was made.
type Traffic struct {
	LAN    int64 `json:"lan"`    // received from the household
	Peer   int64 `json:"peer"`   // received from peers over the access line
	Origin int64 `json:"origin"` // received from the origin
	SentL  int64 `json:"sent_lan,omitempty"`
	SentW  int64 `json:"sent_wan,omitempty"`
}

// MaxBytes bounds counters of bytes: a JSON number carries so many exactly, and the sums over a fleet stay numbers.
const MaxBytes = 1 << 53

// MaxAsset is the longest asset, in bytes: more than the pieces that a .torrent can have.
const MaxAsset = 1 << 43

func (t Traffic) check() error {
	for _, n := range []int64{t.LAN, t.Peer, t.Origin, t.SentL, t.SentW} {
		if n < 0 || n > MaxBytes {
			return fmt.Errorf("%w: traffic of %d bytes", ErrInvalid, n)
		}
	}
	return nil
}

// Disk is the cache's room, in bytes.
type Disk struct {
	Used    int64 `json:"used"`
	Quota   int64 `json:"quota"`
	Free    int64 `json:"free"` // of the file system
	Reserve int64 `json:"reserve"`
}

// Warning is a health code that is raised on the box.
type Warning struct {
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Text     string    `json:"text,omitempty"`
	Since    time.Time `json:"since"`
}

// Shared is what this box and another of its home have given each other over the LAN, in bytes.
type Shared struct {
	Box  string `json:"box"`
	Got  int64  `json:"got"`  // by this box from that one
	Gave int64  `json:"gave"` // by this box to that one
}

// Reported is the box's whole state with cumulative counters, so that a lost one costs nothing.
type Reported struct {
	Envelope
	Software       string           `json:"software"`
	ClockTrusted   bool             `json:"clock_trusted"`
	DesiredVersion int64            `json:"desired_version"`          // of the box's own desired state; 0 none
	GroupVersions  map[string]int64 `json:"group_versions,omitempty"` // of each of its groups
	Refused        []string         `json:"refused,omitempty"`        // config keys that would have widened a limit
	CatalogVersion int64            `json:"catalog_version"`
	CatalogExpires time.Time        `json:"catalog_expires,omitzero"`
	Paused         bool             `json:"paused,omitempty"`
	Assets         []AssetProgress  `json:"assets,omitempty"`
	More           int              `json:"more,omitempty"` // unfinished assets that are not listed
	Holdings       Holdings         `json:"holdings"`
	Traffic        Traffic          `json:"traffic"`
	Disk           Disk             `json:"disk"`
	Health         []Warning        `json:"health,omitempty"`
	Household      int              `json:"household,omitempty"` // neighbours
	Home           []Shared         `json:"home,omitempty"`      // of those, the ones with which most was shared
	CertExpires    time.Time        `json:"cert_expires,omitzero"`
	OutboxLen      int              `json:"outbox,omitempty"`       // events that wait for an acknowledgement
	OutboxLost     uint64           `json:"outbox_lost,omitempty"`  // arrivals that the bound of the outbox cost
	TeleDropped    uint64           `json:"tele_dropped,omitempty"` // telemetry dropped since the daemon started
}

// Check implements Checker.
func (r *Reported) Check() error {
	if len(r.Assets) > MaxAssets || len(r.Health) > MaxHealth || len(r.GroupVersions) > 16 || len(r.Refused) > 16 ||
		len(r.Home) > MaxHome {
		return fmt.Errorf("%w: a list of reported is over its bound", ErrInvalid)
	}
	listed := make(map[asset.ID]bool, len(r.Assets))
	for _, a := range r.Assets {
		if listed[a.ID] {
			return fmt.Errorf("%w: asset %s is listed twice", ErrInvalid, a.ID)
		}
		listed[a.ID] = true
		if !validState(a.State) || a.Have < 0 || a.Size < 0 || a.Have > a.Size || a.Size > MaxBytes {
			return fmt.Errorf("%w: asset %s: state %.20q, %d of %d bytes", ErrInvalid, a.ID, a.State, a.Have, a.Size)
		}
		if err := firstErr(text("code", a.Code), text("why", a.Why), text("role", a.Role)); err != nil {
			return err
		}
	}
	for _, h := range r.Health {
		if err := firstErr(name("health code", h.Code), text("health text", h.Text), text("severity", h.Severity)); err != nil {
			return err
		}
	}
	for g := range r.GroupVersions {
		if !ValidName(g) {
			return fmt.Errorf("%w: group %.50q", ErrInvalid, g)
		}
	}
	for _, h := range r.Home {
		if !ValidBox(h.Box) || h.Got < 0 || h.Got > MaxBytes || h.Gave < 0 || h.Gave > MaxBytes {
			return fmt.Errorf("%w: box %.50q of the home, %d and %d bytes", ErrInvalid, h.Box, h.Got, h.Gave)
		}
	}
	if r.Disk.Used < 0 || outside(r.Holdings.Count) || outside(r.More) {
		return fmt.Errorf("%w: a count is negative or too large", ErrInvalid)
	}
	return firstErr(r.check(), r.Traffic.check(), text("software", r.Software), text("digest", r.Holdings.Digest))
}

// Tele is telemetry: what may be lost.
type Tele struct {
	Envelope
	DownBPS    int64   `json:"down_bps"` // bytes a second received over the access line
	LANBPS     int64   `json:"lan_bps"`
	UpBPS      int64   `json:"up_bps"`
	RSS        int64   `json:"rss"` // bytes
	CPU        float64 `json:"cpu"` // share of one core
	Goroutines int     `json:"goroutines"`
	Readers    int     `json:"readers"` // players that have a file open
	Dropped    uint64  `json:"dropped"` // telemetry messages that were dropped, oldest first
}

// Check implements Checker.
func (t *Tele) Check() error { return t.check() }

// The kinds of Event.
const (
	EventArrived = "arrived" // every byte of the asset is verified and durable
	EventErased  = "erased"  // the box holds it no longer
)

// Event is what must arrive: it stays in the box's outbox until the fleet manager has committed it. The manager takes
// (box, epoch, evt) once.
type Event struct {
	Envelope
	Evt       uint64    `json:"evt"` // outbox number, consecutive within the epoch, so that a hole can be seen
	Kind      string    `json:"kind"`
	Asset     asset.ID  `json:"asset"`
	Name      string    `json:"name,omitempty"`
	Publisher string    `json:"publisher,omitempty"`
	Campaign  string    `json:"campaign,omitempty"`
	Size      int64     `json:"length"`           // bytes of the asset
	From      Traffic   `json:"bytes"`            // where its bytes came from
	At        time.Time `json:"at"`               // when it happened, by the box's clock
	Trusted   bool      `json:"trusted"`          // whether that clock was trusted
	Reason    string    `json:"reason,omitempty"` // of erased: "withdrawn", "expired", "evicted", "operator", "damaged"
}

// Check implements Checker.
func (e *Event) Check() error {
	if e.Evt == 0 || e.Evt > math.MaxInt64 || e.Size < 0 || e.Size > MaxAsset || e.Asset.IsZero() {
		return fmt.Errorf("%w: event %d of asset %s, %d bytes", ErrInvalid, e.Evt, e.Asset, e.Size)
	}
	return firstErr(e.check(), e.From.check(), name("event kind", e.Kind), text("name", e.Name), text("publisher", e.Publisher),
		text("campaign", e.Campaign), text("reason", e.Reason))
}

// EventAck is the fleet manager's word that it has committed an event or a command's answer.
type EventAck struct {
	V     int    `json:"v"`
	Epoch string `json:"epoch"`
	Evt   uint64 `json:"evt"`
}

// Check implements Checker.
func (a *EventAck) Check() error {
	if a.Evt == 0 || len(a.Epoch) > 64 {
		return fmt.Errorf("%w: ack of event %d", ErrInvalid, a.Evt)
	}
	return nil
}

// The statuses of a command's answer.
const (
	StatusAccepted = "accepted"
	StatusDone     = "done"
	StatusFailed   = "failed"
)

// CommandAck answers a command: first accepted, then done or failed. The final answer has an outbox number and is kept
// until it is acknowledged; a command that comes again gets the same answer again.
type CommandAck struct {
	Envelope
	Evt    uint64          `json:"evt,omitempty"` // of final answers
	ID     string          `json:"id"`
	Name   string          `json:"name,omitempty"`
	Status string          `json:"status"`
	Code   string          `json:"code,omitempty"` // of failed, kebab-case
	Text   string          `json:"text,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// Check implements Checker.
func (c *CommandAck) Check() error {
	final := c.Status == StatusDone || c.Status == StatusFailed
	switch {
	case !final && c.Status != StatusAccepted:
		return fmt.Errorf("%w: status %.20q", ErrInvalid, c.Status)
	case final != (c.Evt != 0), c.Evt > math.MaxInt64:
		return fmt.Errorf("%w: status %s with outbox number %d", ErrInvalid, c.Status, c.Evt)
	case !ValidCommandID(c.ID):
		return fmt.Errorf("%w: command id %.70q", ErrInvalid, c.ID)
	case len(c.Data) > MaxData:
		return fmt.Errorf("%w: %d bytes of result", ErrTooBig, len(c.Data))
	}
	return firstErr(c.check(), text("code", c.Code), text("text", c.Text), text("name", c.Name))
}

func validState(s string) bool {
	switch s {
	case Accepted, Fetching, Verified, Ready, Rejected, Failed:
		return true
	}
	return false
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func text(what, s string) error {
	if len(s) > MaxText || !utf8.ValidString(s) || strings.ContainsRune(s, 0) { // databases take no NUL
		return fmt.Errorf("%w: %s has %d bytes, at most %d of UTF-8 without NUL", ErrInvalid, what, len(s), MaxText)
	}
	return nil
}

// outside reports whether a count does not fit a column of 32 bits.
func outside(n int) bool { return n < 0 || n > math.MaxInt32 }

func name(what, s string) error {
	if len(s) > 64 || !nameLike(s) {
		return fmt.Errorf("%w: %s %.70q", ErrInvalid, what, s)
	}
	return nil
}
