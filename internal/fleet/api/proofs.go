package api

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
)

func proofFilter(r *http.Request) (registry.ProofFilter, error) {
	q := r.URL.Query()
	f := registry.ProofFilter{
		Box: q.Get("box"), Asset: q.Get("asset"), Publisher: q.Get("publisher"), Campaign: q.Get("campaign"), Kind: q.Get("kind"),
	}
	for name, at := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if v := q.Get(name); v != "" {
			t, err := time.Parse(time.RFC3339, v)
			if err != nil {
				return f, fmt.Errorf("%w: %s: %w", operate.ErrBad, name, err)
			}
			*at = t
		}
	}
	limit, err := number(r, "limit", 0, 1<<31-1)
	f.Limit = limit
	return f, err
}

// ownOnly narrows what a publisher asks for to what is its own.
func ownOnly(u who, f *registry.ProofFilter) error {
	if u.role != Publisher {
		return nil
	}
	if f.Publisher != "" && f.Publisher != u.publisher {
		return fmt.Errorf("%w: proofs of %q", errForbidden, f.Publisher)
	}
	f.Publisher = u.publisher
	return nil
}

var proofHeader = []string{
	"box", "kind", "asset", "name", "publisher", "campaign", "length", "lan", "peer", "origin", "at", "trusted", "reason",
	"received", "epoch", "evt",
}

// getProofs streams proofs, to a publisher its own, as JSON or, with format=csv, as CSV, so that a million of them need
// no memory.
func (s *server) getProofs(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	f, err := proofFilter(r)
	if err != nil {
		return nil, err
	}
	if err := ownOnly(u, &f); err != nil {
		return nil, err
	}
	if r.URL.Query().Get("format") == "csv" {
		return nil, s.proofsCSV(w, r, f)
	}
	first := true
	enc := json.NewEncoder(w)
	err = s.o.Fleet.Registry().EachProof(r.Context(), f, func(p registry.Proof) error {
		sep := ","
		if first {
			w.Header().Set("Content-Type", "application/json")
			first, sep = false, "["
		}
		if _, err := io.WriteString(w, sep); err != nil {
			return err
		}
		return enc.Encode(p)
	})
	switch {
	case first && err != nil:
		return nil, err
	case first:
		return []registry.Proof{}, nil
	case err == nil:
		_, _ = io.WriteString(w, "]\n")
	default:
		s.cutOff(err)
	}
	return nil, nil
}

func (s *server) proofsCSV(w http.ResponseWriter, r *http.Request, f registry.ProofFilter) error {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="proofs.csv"`)
	c := csv.NewWriter(w)
	if err := c.Write(proofHeader); err != nil {
		return err
	}
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	err := s.o.Fleet.Registry().EachProof(r.Context(), f, func(p registry.Proof) error {
		return c.Write([]string{
			p.Box, p.Kind, p.Asset.String(), cell(p.Name), cell(p.Publisher), cell(p.Campaign), n(p.Length), n(p.LAN), n(p.Peer),
			n(p.Origin), p.At.Format(time.RFC3339), strconv.FormatBool(p.Trusted), cell(p.Reason), p.Received.Format(time.RFC3339),
			p.Epoch, n(p.Evt),
		})
	})
	c.Flush()
	if err := errors.Join(err, c.Error()); err != nil {
		s.cutOff(err)
	}
	return nil
}

// cutOff breaks the connection: the reader must not take a part of an export for the whole.
func (s *server) cutOff(err error) {
	s.log.Warn("export of proofs was cut off", "err", err)
	panic(http.ErrAbortHandler)
}

// cell keeps a spreadsheet from taking a text for a formula.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

func (s *server) statement(w http.ResponseWriter, r *http.Request, u who) (any, error) {
	f, err := proofFilter(r)
	if err != nil {
		return nil, err
	}
	f.Publisher = r.PathValue("publisher")
	if err := ownOnly(u, &f); err != nil {
		return nil, err
	}
	lines, err := s.o.Fleet.Registry().Statement(r.Context(), f)
	if err != nil || r.URL.Query().Get("format") != "csv" {
		return lines, err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	c := csv.NewWriter(w)
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	rows := [][]string{
		{"publisher", "asset", "name", "campaign", "delivered", "copies", "erased", "bytes", "lan", "peer", "origin", "first", "last"},
	}
	for _, l := range lines {
		rows = append(rows, []string{
			l.Publisher, l.Asset.String(), cell(l.Name), cell(l.Campaign), strconv.Itoa(l.Delivered), strconv.Itoa(l.Copies),
			strconv.Itoa(l.Erased), n(l.Bytes), n(l.LAN), n(l.Peer), n(l.Origin), l.First.Format(time.RFC3339), l.Last.Format(time.RFC3339),
		})
	}
	return nil, c.WriteAll(rows)
}
