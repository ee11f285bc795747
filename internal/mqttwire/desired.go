package mqttwire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"boxd/internal/asset"
)

// Desired is the operator's standing wish for a box or a group, inside an envelope that an operations key signed. It
// is retained, versioned and idempotent: a box applies a version once and never an older one.
type Desired struct {
	V              int     `json:"v"`
	Version        int64   `json:"version"`                   // grows; of this box or group
	CatalogVersion int64   `json:"catalog_version,omitempty"` // the bell: there is a catalog of at least this version
	Config         *Config `json:"config,omitempty"`
}

// Config is remote config. Each limit narrows what the firmware allows; one that would widen it is refused and named
// in Reported.Refused. A nil field leaves the firmware's value alone.
type Config struct {
	WANDown *int64 `json:"wan_down,omitempty"` // bytes a second; 0 stops the WAN
	WANUp   *int64 `json:"wan_up,omitempty"`   // bytes a second
	Quota   *int64 `json:"quota,omitempty"`    // bytes of cache
	Reserve *int64 `json:"reserve,omitempty"`  // bytes that stay free; may only grow
	Peers   *int   `json:"peers,omitempty"`    // connections
	Paused  *bool  `json:"paused,omitempty"`   // true stops fetching
	// ReportSeconds is the longest time between two reports of an idle box; at least 30.
	ReportSeconds *int `json:"report_seconds,omitempty"`
}

// Check implements Checker.
func (d *Desired) Check() error {
	if d.Version < 1 || d.CatalogVersion < 0 {
		return fmt.Errorf("%w: desired version %d, catalog %d", ErrInvalid, d.Version, d.CatalogVersion)
	}
	c := d.Config
	if c == nil {
		return nil
	}
	for _, n := range []*int64{c.WANDown, c.WANUp, c.Quota, c.Reserve} {
		if n != nil && *n < 0 {
			return fmt.Errorf("%w: a negative limit in config", ErrInvalid)
		}
	}
	if c.Peers != nil && *c.Peers < 0 || c.ReportSeconds != nil && *c.ReportSeconds < 30 {
		return fmt.Errorf("%w: peers or report_seconds of config", ErrInvalid)
	}
	return nil
}

// DecodeDesired reads a signed desired's inner payload, strictly: a key that this program does not know cannot be
// obeyed, and a wish that is half obeyed is worse than one that is refused.
func DecodeDesired(data []byte) (*Desired, error) {
	var d Desired
	if err := strict(data, MaxDesired, &d); err != nil {
		return nil, fmt.Errorf("desired: %w", err)
	}
	return &d, nil
}

// Command is an order to a box, inside an envelope that an operations key signed for that box and a time.
type Command struct {
	V    int             `json:"v"`
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
}

// Commands are the names that a box knows.
var Commands = []string{
	"refresh", "pin", "unpin", "evict", "verify", "pause", "resume", "log-tail", "diagnose", "set-limits",
	"renew-certificate",
}

// Check implements Checker.
func (c *Command) Check() error {
	if len(c.Args) > 4<<10 {
		return fmt.Errorf("%w: %d bytes of args", ErrTooBig, len(c.Args))
	}
	return name("command", c.Name)
}

// KnownCommand reports whether this version has the command.
func KnownCommand(s string) bool { return slices.Contains(Commands, s) }

// DecodeCommand reads a signed command's inner payload, strictly.
func DecodeCommand(data []byte) (*Command, error) {
	var c Command
	if err := strict(data, MaxPayload, &c); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	return &c, nil
}

func strict(data []byte, limit int, into Checker) error {
	if err := Decode(data, limit, into); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// HoldingsDigest is the hexadecimal SHA-256 of the sorted ids, 20 bytes each; empty for none.
func HoldingsDigest(ids []asset.ID) string {
	if len(ids) == 0 {
		return ""
	}
	sorted := slices.Clone(ids)
	slices.SortFunc(sorted, func(a, b asset.ID) int { return bytes.Compare(a[:], b[:]) })
	h := sha256.New()
	for _, id := range sorted {
		h.Write(id[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// HoldingsList is what a box uploads by HTTPS when the digest of its holdings changed.
type HoldingsList struct {
	V      int         `json:"v"`
	Epoch  string      `json:"epoch"`
	Digest string      `json:"digest"`
	Assets []HeldAsset `json:"assets"`
}

// HeldAsset is one asset that a box holds whole.
type HeldAsset struct {
	ID   asset.ID  `json:"id"`
	Size int64     `json:"length"` // bytes
	At   time.Time `json:"at"`
}

// MaxHoldings bounds an uploaded list of holdings, in bytes.
const MaxHoldings = 4 << 20

// Check implements Checker.
func (h *HoldingsList) Check() error {
	ids := make([]asset.ID, len(h.Assets))
	for i, a := range h.Assets {
		if a.Size < 0 || a.ID.IsZero() {
			return fmt.Errorf("%w: held asset %s of %d bytes", ErrInvalid, a.ID, a.Size)
		}
		ids[i] = a.ID
	}
	if d := HoldingsDigest(ids); d != h.Digest {
		return fmt.Errorf("%w: digest %.70q of a list whose digest is %s", ErrInvalid, h.Digest, d)
	}
	return nil
}
