package registry

import (
	"context"
	"fmt"
	"time"

	"boxd/internal/asset"
)

// Proof is one committed arrival or erasure.
type Proof struct {
	Box       string    `json:"box"`
	Epoch     string    `json:"epoch"`
	Evt       int64     `json:"evt"`
	Kind      string    `json:"kind"` // "arrived" or "erased"
	Asset     asset.ID  `json:"asset"`
	Name      string    `json:"name"`
	Publisher string    `json:"publisher"`
	Campaign  string    `json:"campaign,omitempty"`
	Length    int64     `json:"length"` // bytes
	LAN       int64     `json:"lan"`
	Peer      int64     `json:"peer"`
	Origin    int64     `json:"origin"`
	At        time.Time `json:"at"`      // by the box's clock
	Trusted   bool      `json:"trusted"` // whether that clock was
	Reason    string    `json:"reason,omitempty"`
	Received  time.Time `json:"received"` // by the manager's clock
}

// ProofFilter selects proofs; zero fields select all.
type ProofFilter struct {
	Box, Asset, Publisher, Campaign, Kind string
	From, To                              time.Time // of Received: from inclusive, to exclusive
	Limit                                 int       // 0 means all
}

func (f ProofFilter) where() (string, []any) {
	cond, args := "1 = 1", []any{}
	add := func(c string, v any) { cond += " AND " + c; args = append(args, v) }
	for col, v := range map[string]string{
		"box": f.Box, "asset": f.Asset, "publisher": f.Publisher, "campaign": f.Campaign, "kind": f.Kind,
	} {
		if v != "" {
			add(col+" = ?", v)
		}
	}
	if !f.From.IsZero() {
		add("received >= ?", ms(f.From))
	}
	if !f.To.IsZero() {
		add("received < ?", ms(f.To))
	}
	return cond, args
}

// proofPage is how many proofs are read at a time: the reader of an export may be slow, and no row stays open meanwhile.
const proofPage = 2000

// EachProof calls fn for each proof in the order of arrival, without holding them all.
func (g *Registry) EachProof(ctx context.Context, f ProofFilter, fn func(Proof) error) error {
	var last *Proof
	for n := 0; f.Limit == 0 || n < f.Limit; {
		limit := proofPage
		if f.Limit > 0 {
			limit = min(limit, f.Limit-n)
		}
		page, err := g.proofsAfter(ctx, f, last, limit)
		if err != nil {
			return err
		}
		for i := range page {
			if err := fn(page[i]); err != nil {
				return err
			}
		}
		if len(page) < limit {
			return nil
		}
		last = &page[len(page)-1]
		n += len(page)
	}
	return nil
}

func (g *Registry) proofsAfter(ctx context.Context, f ProofFilter, last *Proof, limit int) ([]Proof, error) {
	cond, args := f.where()
	if last != nil {
		cond += " AND (received, box, evt, epoch) > (?, ?, ?, ?)"
		args = append(args, ms(last.Received), last.Box, last.Evt, last.Epoch)
	}
	rows, err := g.r.QueryContext(ctx, g.q("SELECT box, epoch, evt, kind, asset, name, publisher, campaign, length, lan, peer, "+
		"origin, at, trusted, reason, received FROM proofs WHERE "+cond+" ORDER BY received, box, evt, epoch LIMIT ?"),
		append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("read proofs: %w", err)
	}
	defer rows.Close()
	var list []Proof
	for rows.Next() {
		var p Proof
		var id string
		var at, received int64
		var trusted int
		if err := rows.Scan(&p.Box, &p.Epoch, &p.Evt, &p.Kind, &id, &p.Name, &p.Publisher, &p.Campaign, &p.Length,
			&p.LAN, &p.Peer, &p.Origin, &at, &trusted, &p.Reason, &received); err != nil {
			return nil, fmt.Errorf("read proofs: %w", err)
		}
		if p.Asset, err = asset.ParseID(id); err != nil {
			return nil, fmt.Errorf("read proofs: %w", err)
		}
		p.At, p.Received, p.Trusted = fromMS(at), fromMS(received), trusted == 1
		list = append(list, p)
	}
	return list, rows.Err()
}

// StatementLine is what one asset of a publisher amounted to in a span of time: what a publisher pays for.
type StatementLine struct {
	Publisher string    `json:"publisher"`
	Asset     asset.ID  `json:"asset"`
	Name      string    `json:"name"`
	Campaign  string    `json:"campaign"`
	Delivered int       `json:"delivered"` // boxes that proved the arrival
	Copies    int       `json:"copies"`    // arrivals that they proved: a box may have fetched it more than once
	Erased    int       `json:"erased"`    // boxes that proved the erasure
	Bytes     int64     `json:"bytes"`     // copies × length
	LAN       int64     `json:"lan"`
	Peer      int64     `json:"peer"`
	Origin    int64     `json:"origin"`
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
}

// Statement sums proofs by asset and campaign.
func (g *Registry) Statement(ctx context.Context, f ProofFilter) ([]StatementLine, error) {
	cond, args := f.where()
	sum := func(col string) string {
		return "COALESCE(" + g.sum("CASE WHEN kind = 'arrived' THEN "+col+" ELSE 0 END") + ", 0)"
	}
	rows, err := g.r.QueryContext(ctx, g.q("SELECT publisher, asset, MAX(name), campaign, "+
		"COUNT(DISTINCT CASE WHEN kind = 'arrived' THEN box END), "+sum("1")+", "+
		"COUNT(DISTINCT CASE WHEN kind = 'erased' THEN box END), "+sum("length")+", "+sum("lan")+", "+
		sum("peer")+", "+sum("origin")+", MIN(received), MAX(received) FROM proofs WHERE "+cond+
		" GROUP BY publisher, asset, campaign ORDER BY publisher, MIN(received), asset"), args...)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	defer rows.Close()
	list := []StatementLine{}
	for rows.Next() {
		var l StatementLine
		var id string
		var first, last int64
		if err := rows.Scan(&l.Publisher, &id, &l.Name, &l.Campaign, &l.Delivered, &l.Copies, &l.Erased, &l.Bytes, &l.LAN, &l.Peer,
			&l.Origin, &first, &last); err != nil {
			return nil, fmt.Errorf("statement: %w", err)
		}
		if l.Asset, err = asset.ParseID(id); err != nil {
			return nil, fmt.Errorf("statement: %w", err)
		}
		l.First, l.Last = fromMS(first), fromMS(last)
		list = append(list, l)
	}
	return list, rows.Err()
}
