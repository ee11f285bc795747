package catalog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"boxd/internal/asset"
)

// The targets that every box of a fleet reads. Each may be absent.
const (
	RevocationsPath = "fleet/revocations.json"
	OperationsPath  = "fleet/operations.json"
	WithdrawnPath   = "fleet/withdrawn.json"
)

// Limits of the fleet's files.
const (
	MaxFleetBytes = 4 << 20 // bytes of each
	MaxRevoked    = 100_000
	MaxWithdrawn  = 65_536
	MaxOpsKeys    = 16
)

// GroupFile is the target groups/<group>.json.
type GroupFile struct {
	V         int        `json:"v"` // 1
	Group     string     `json:"group"`
	Campaigns []Campaign `json:"campaigns"`
	// Newer holds the ids of campaigns in a later format than this program reads: boxes go without them until they are
	// updated, and nobody may write the file anew, as that would lose them.
	Newer []string `json:"-"`
}

// UnmarshalJSON reads campaigns one by one, so that one in a later format costs a box no more than that one.
func (g *GroupFile) UnmarshalJSON(b []byte) error {
	var raw struct {
		V         int               `json:"v"`
		Group     string            `json:"group"`
		Campaigns []json.RawMessage `json:"campaigns"`
	}
	if err := strict(b, &raw); err != nil {
		return err
	}
	*g = GroupFile{V: raw.V, Group: raw.Group, Campaigns: make([]Campaign, 0, min(len(raw.Campaigns), MaxCampaigns))}
	if len(raw.Campaigns) > MaxCampaigns {
		return fmt.Errorf("%d campaigns, more than %d", len(raw.Campaigns), MaxCampaigns)
	}
	for i, rc := range raw.Campaigns {
		var head struct {
			V  int    `json:"v"`
			ID string `json:"id"`
		}
		if err := json.Unmarshal(rc, &head); err != nil {
			return fmt.Errorf("campaigns[%d]: %w", i, err)
		}
		if head.V > 1 {
			g.Newer = append(g.Newer, head.ID)
			continue
		}
		var c Campaign
		if err := strict(rc, &c); err != nil {
			return fmt.Errorf("campaigns[%d]: %w", i, err)
		}
		g.Campaigns = append(g.Campaigns, c)
	}
	return nil
}

// RevocationsFile is the target fleet/revocations.json: serial numbers of certificates, lower-case hexadecimal.
type RevocationsFile struct {
	V       int      `json:"v"` // 1
	Serials []string `json:"serials"`
}

// OperationsFile is the target fleet/operations.json: the keys that sign desired state and commands.
type OperationsFile struct {
	V    int      `json:"v"`    // 1
	Keys []string `json:"keys"` // ed25519 public keys, hexadecimal
}

// WithdrawnFile is the target fleet/withdrawn.json: assets that must not be fetched, served or kept.
type WithdrawnFile struct {
	V      int        `json:"v"` // 1
	Assets []asset.ID `json:"assets"`
}

// strict decodes exactly one JSON value without unknown keys.
func strict(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func version1(v int) error {
	if v != 1 {
		return fmt.Errorf("v is %d, want 1", v)
	}
	return nil
}

// ParseGroup reads a group file strictly.
func ParseGroup(b []byte) (*GroupFile, error) {
	var g GroupFile
	if len(b) > MaxGroupBytes {
		return nil, fmt.Errorf("group file: %d bytes, more than %d", len(b), MaxGroupBytes)
	}
	if err := strict(b, &g); err != nil {
		return nil, fmt.Errorf("group file: %w", err)
	}
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("group file %.60q: %w", g.Group, err)
	}
	return &g, nil
}

// Validate joins all faults of a group file.
func (g *GroupFile) Validate() error {
	faults := []error{version1(g.V)}
	if !ValidName(g.Group) {
		faults = append(faults, errors.New("bad group name"))
	}
	if len(g.Campaigns) > MaxCampaigns {
		faults = append(faults, fmt.Errorf("%d campaigns, more than %d", len(g.Campaigns), MaxCampaigns))
	}
	seen := map[string]bool{}
	for i := range g.Campaigns {
		c := &g.Campaigns[i]
		if err := c.Validate(); err != nil {
			faults = append(faults, fmt.Errorf("campaign %.60q: %w", c.ID, err))
		}
		if c.Group != g.Group {
			faults = append(faults, fmt.Errorf("campaign %.60q is for group %.60q", c.ID, c.Group))
		}
		if seen[c.ID] {
			faults = append(faults, fmt.Errorf("campaign %.60q is there twice", c.ID))
		}
		seen[c.ID] = true
	}
	return errors.Join(faults...)
}

// ParseRevocations reads fleet/revocations.json strictly.
func ParseRevocations(b []byte) (*RevocationsFile, error) {
	var f RevocationsFile
	if err := errors.Join(strict(b, &f), version1(f.V)); err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	if len(f.Serials) > MaxRevoked {
		return nil, fmt.Errorf("revocations: %d serials, more than %d", len(f.Serials), MaxRevoked)
	}
	for _, s := range f.Serials {
		if s == "" || len(s) > 40 || strings.Trim(s, "0123456789abcdef") != "" {
			return nil, fmt.Errorf("revocations: serial %.60q is not lower-case hexadecimal", s)
		}
	}
	return &f, nil
}

// ParseOperations reads fleet/operations.json strictly.
func ParseOperations(b []byte) ([]ed25519.PublicKey, error) {
	var f OperationsFile
	if err := errors.Join(strict(b, &f), version1(f.V)); err != nil {
		return nil, fmt.Errorf("operations keys: %w", err)
	}
	if len(f.Keys) > MaxOpsKeys {
		return nil, fmt.Errorf("operations keys: %d keys, more than %d", len(f.Keys), MaxOpsKeys)
	}
	keys := make([]ed25519.PublicKey, 0, len(f.Keys))
	for i, s := range f.Keys {
		k, err := hex.DecodeString(s)
		if err != nil || len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("operations keys: key %d is not %d hexadecimal bytes", i, ed25519.PublicKeySize)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// ParseWithdrawn reads fleet/withdrawn.json strictly.
func ParseWithdrawn(b []byte) ([]asset.ID, error) {
	var f WithdrawnFile
	if err := errors.Join(strict(b, &f), version1(f.V)); err != nil {
		return nil, fmt.Errorf("withdrawn: %w", err)
	}
	if len(f.Assets) > MaxWithdrawn {
		return nil, fmt.Errorf("withdrawn: %d assets, more than %d", len(f.Assets), MaxWithdrawn)
	}
	return f.Assets, nil
}

// Includes reports whether a box takes part in the campaign at its present stage of rollout.
func (c *Campaign) Includes(boxID string, groups []string) bool {
	if c.Rollout == nil {
		return true
	}
	for _, g := range c.Rollout.Cohorts {
		if g == boxID || slices.Contains(groups, g) {
			return true
		}
	}
	return Place(c.ID, boxID) < c.Rollout.PerMille
}

// Place is where a box stands in a campaign's rollout, 0 to 999. It is the same on the box and in the fleet manager.
func Place(campaignID, boxID string) int {
	sum := sha256.Sum256([]byte("boxd-rollout\x00" + campaignID + "\x00" + boxID))
	return int(binary.BigEndian.Uint64(sum[:8]) % 1000)
}
