package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"boxd/internal/mqttwire"
)

// Ack is an event or final command answer that is committed and must be acknowledged to its box.
type Ack struct {
	Box, Epoch string
	Evt        uint64
}

// Seen is a box whose report or state was taken: what the conveyor of wishes and commands needs to know.
type Seen struct {
	Box, Group             string
	TurnedOnline, Reported bool
	Desired, GroupDesired  int64
}

// Ingested is what a batch changed.
type Ingested struct {
	Acks  []Ack
	Seen  []Seen
	Bad   int // payloads that were refused
	Stale int // messages older than what is known
	New   int // proofs that were not known
	// Over are boxes that have proven more than a box may in a day. What is too much is neither stored nor acknowledged: the
	// box keeps it and tries again.
	Over []string
	// Dropped are messages that the database takes under no circumstances; they count as bad.
	Dropped []Dropped
}

// Dropped is a message that was not stored, and why.
type Dropped struct {
	Topic mqttwire.Topic
	Err   error
}

// batch is the work of one Ingest.
type batch struct {
	g       *Registry
	rows    map[string]*row
	history []historyRow
	arrived map[arrivalKey]Arrivals
	wrote   map[string]written // by box
	out     Ingested
}

type historyRow struct {
	box, kind, text string
	at              int64
}

// Ingest commits a batch of boxes' messages in one transaction. Messages that make no sense are counted and dropped:
// they would be as bad the next time. So are those whose data the database refuses: the batch is then taken one by one.
// Any other error means that not all was committed, and that the batch may come again.
func (g *Registry) Ingest(ctx context.Context, msgs []mqttwire.Message) (Ingested, error) {
	out, err := g.ingest(ctx, msgs)
	if !dataFault(err) {
		return out, err
	}
	if len(msgs) == 1 {
		return Ingested{Bad: 1, Dropped: []Dropped{{msgs[0].Topic, err}}}, nil
	}
	out = Ingested{}
	for _, m := range msgs {
		one, err := g.Ingest(ctx, []mqttwire.Message{m})
		if err != nil {
			return out, err
		}
		out.add(one)
	}
	return out, nil
}

func (n *Ingested) add(m Ingested) {
	n.Acks, n.Seen, n.Dropped = append(n.Acks, m.Acks...), append(n.Seen, m.Seen...), append(n.Dropped, m.Dropped...)
	n.Over = append(n.Over, m.Over...)
	n.Bad, n.Stale, n.New = n.Bad+m.Bad, n.Stale+m.Stale, n.New+m.New
}

func (g *Registry) ingest(ctx context.Context, msgs []mqttwire.Message) (Ingested, error) {
	var out Ingested
	var wrote map[string]written
	err := g.update(ctx, false, func(tx *sql.Tx) error {
		b := &batch{g: g, rows: map[string]*row{}, wrote: map[string]written{}}
		var ids []string
		for _, m := range msgs {
			if m.Topic.Box != "" && b.rows[m.Topic.Box] == nil {
				b.rows[m.Topic.Box] = &row{ID: m.Topic.Box}
				ids = append(ids, m.Topic.Box)
			}
		}
		slices.Sort(ids) // one order for all fleetd: no deadlocks
		if err := b.load(ctx, tx, ids); err != nil {
			return err
		}
		for _, m := range msgs {
			if r := b.rows[m.Topic.Box]; r != nil {
				if err := b.take(ctx, tx, r, m); err != nil {
					return err
				}
			}
		}
		if err := b.store(ctx, tx, ids); err != nil {
			return err
		}
		out, wrote = b.out, b.wrote
		return nil
	})
	if err == nil {
		g.spent.add(wrote)
	}
	return out, err
}

func (b *batch) take(ctx context.Context, tx *sql.Tx, r *row, m mqttwire.Message) error {
	at := ms(m.Received)
	switch m.Topic.Kind {
	case mqttwire.KindState:
		var s mqttwire.State
		if b.bad(mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &s)) {
			return nil
		}
		b.state(r, &s, at)
	case mqttwire.KindReported:
		var s mqttwire.Reported
		if b.bad(mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &s)) {
			return nil
		}
		return b.reported(ctx, tx, r, &s, m.Payload, at)
	case mqttwire.KindEvent:
		var e mqttwire.Event
		if b.bad(mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &e)) {
			return nil
		}
		r.see(at)
		if over, err := b.refuses(ctx, tx, r.ID, &e, at); over || err != nil {
			if over && !slices.Contains(b.out.Over, r.ID) {
				b.out.Over = append(b.out.Over, r.ID)
			}
			return err
		}
		b.out.Acks = append(b.out.Acks, Ack{r.ID, e.Epoch, e.Evt})
		known := true
		if judge := b.g.judge.Load(); judge != nil {
			known = (*judge)(&e)
		}
		return b.proof(ctx, tx, r, &e, known, at)
	case mqttwire.KindCmdAck:
		var a mqttwire.CommandAck
		if b.bad(mqttwire.Decode(m.Payload, mqttwire.MaxPayload, &a)) || a.ID != m.Topic.ID {
			return nil
		}
		r.see(at)
		if a.Evt > 0 {
			b.out.Acks = append(b.out.Acks, Ack{r.ID, a.Epoch, a.Evt})
		}
		return b.answer(ctx, tx, r, &a, at)
	}
	return nil
}

func (b *batch) bad(err error) bool {
	if err != nil {
		b.out.Bad++
	}
	return err != nil
}

// state takes presence. A will (sequence 0) counts only for the session that is current: the broker may send it late.
func (b *batch) state(r *row, s *mqttwire.State, at int64) {
	same := s.Epoch == r.Epoch
	will := !s.Online && s.Seq == 0
	switch {
	case will && (!same || s.SID != r.sid()), same && s.SID < r.sid(), same && !will && s.SID == r.sid() && s.Seq < r.seq():
		b.out.Stale++
		return
	}
	if !same && r.Epoch != "" && s.Online {
		b.note(r, at, "epoch", "the box has a new state file: its counters and numbers start anew")
	}
	if !will {
		r.Epoch, r.SID, r.Seq = s.Epoch, int64(s.SID), int64(s.Seq) //nolint:gosec // counters of connects and messages
	}
	if s.Software != "" && r.Software != "" && s.Software != r.Software {
		b.note(r, at, "software", r.Software+" → "+s.Software)
	}
	if s.Software != "" {
		r.Software = s.Software
	}
	if s.Online {
		r.see(at)
		r.Skew = ms(s.TS) - at
		if r.Online == 0 {
			r.Online, r.OnlineSince = 1, at
			b.note(r, at, "online", "")
		}
		r.turned = true
	} else if r.Online == 1 {
		r.Online, r.OnlineSince = 0, at
		b.note(r, at, "offline", s.Reason)
	}
	r.dirty = true
}

func (b *batch) reported(ctx context.Context, tx *sql.Tx, r *row, s *mqttwire.Reported, raw []byte, at int64) error {
	if s.Epoch == r.Epoch && (s.SID < r.sid() || s.SID == r.sid() && s.Seq < r.seq()) {
		b.out.Stale++
		return nil
	}
	r.see(at)
	if r.Online == 0 { // its state message came before fleetd knew it, or was lost
		r.Online, r.OnlineSince, r.turned = 1, at, true
		b.note(r, at, "online", "")
	}
	r.Epoch, r.SID, r.Seq = s.Epoch, int64(s.SID), int64(s.Seq) //nolint:gosec // counters of connects and messages
	r.Software, r.Skew = s.Software, ms(s.TS)-at
	r.Desired, r.Catalog = s.DesiredVersion, s.CatalogVersion
	r.GroupDesired = s.GroupVersions[r.Group]
	r.DiskUsed, r.DiskQuota, r.DiskFree = s.Disk.Used, s.Disk.Quota, s.Disk.Free
	r.LAN, r.Peer, r.Origin = s.Traffic.LAN, s.Traffic.Peer, s.Traffic.Origin
	r.Holdings, r.Digest = s.Holdings.Count, s.Holdings.Digest
	r.Unfinished, r.Warnings, r.AtRisk = min(len(s.Assets)+s.More, math.MaxInt32), len(s.Health), 0
	for _, a := range s.Assets {
		if a.Late {
			r.AtRisk++
		}
	}
	r.Reported, r.ReportedAt = raw, at
	r.reported = true
	codes := healthCodes(s)
	b.healthChanges(r, s, codes, at)
	r.Codes = strings.Join(codes, ",")
	r.dirty = true
	return b.progress(ctx, tx, r, s)
}

// progress keeps one row for each unfinished asset, written only when a state changed: bytes alone are in the report.
func (b *batch) progress(ctx context.Context, tx *sql.Tx, r *row, s *mqttwire.Reported) error {
	var sig strings.Builder
	for _, a := range s.Assets {
		fmt.Fprintf(&sig, "%s %s %s %t;", a.ID.Short(), a.State, a.Code, a.Late)
	}
	if sig.String() == r.Sig {
		return nil
	}
	r.Sig = sig.String()
	if _, err := tx.ExecContext(ctx, b.g.q("DELETE FROM progress WHERE box = ?"), r.ID); err != nil {
		return fmt.Errorf("progress of %s: %w", r.ID, err)
	}
	if len(s.Assets) == 0 {
		return nil
	}
	var args []any
	for _, a := range s.Assets {
		args = append(args, r.ID, a.ID.String(), a.State, a.Code, b2i(a.Late))
	}
	query := "INSERT INTO progress (box, asset, state, code, at_risk) VALUES " +
		strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?),", len(s.Assets)), ",") +
		" ON CONFLICT (asset, box) DO UPDATE SET state = excluded.state, code = excluded.code, at_risk = excluded.at_risk"
	if _, err := tx.ExecContext(ctx, b.g.q(query), args...); err != nil {
		return fmt.Errorf("progress of %s: %w", r.ID, err)
	}
	return nil
}

func healthCodes(s *mqttwire.Reported) []string {
	var codes []string
	for _, h := range s.Health {
		codes = append(codes, h.Code)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// healthChanges writes what was raised and what went since the last report.
func (b *batch) healthChanges(r *row, s *mqttwire.Reported, codes []string, at int64) {
	old := strings.Split(r.Codes, ",")
	for _, c := range codes {
		if slices.Contains(old, c) {
			continue
		}
		for _, h := range s.Health {
			if h.Code == c {
				b.note(r, at, "warning", c+": "+h.Text)
				break
			}
		}
	}
	for _, c := range old {
		if c != "" && !slices.Contains(codes, c) {
			b.note(r, at, "cleared", c)
		}
	}
}

func (b *batch) note(r *row, at int64, kind, text string) {
	yes, last := b.mayNote(r.ID, at)
	if !yes {
		return
	}
	if last {
		kind, text = "too-many-lines", fmt.Sprintf("it makes more than %d lines a day: what follows is not written", maxLines)
	}
	b.history = append(b.history, historyRow{r.ID, kind, strings.ToValidUTF8(text[:min(len(text), 500)], ""), at})
}

// proof stores an event once. A number that comes again with another content is a box that lost its state: it is kept
// under a name of its own rather than thrown away.
func (b *batch) proof(ctx context.Context, tx *sql.Tx, r *row, e *mqttwire.Event, known bool, at int64) error {
	r.dirty = true
	insert := func(epoch string) (bool, error) {
		res, err := tx.ExecContext(ctx, b.g.q("INSERT INTO proofs (box, epoch, evt, kind, asset, name, publisher, campaign, "+
			"length, lan, peer, origin, at, trusted, reason, received) VALUES ("+marks(16)+") ON CONFLICT DO NOTHING"),
			r.ID, epoch, int64(e.Evt), e.Kind, e.Asset.String(), e.Name, e.Publisher, e.Campaign, e.Size, //nolint:gosec // a count
			min(e.From.LAN, mqttwire.MaxAsset), min(e.From.Peer, mqttwire.MaxAsset), min(e.From.Origin, mqttwire.MaxAsset),
			ms(e.At), b2i(e.Trusted), e.Reason, at)
		if err != nil {
			return false, fmt.Errorf("proof of %s: %w", r.ID, err)
		}
		n, err := res.RowsAffected()
		return n > 0, err
	}
	fresh, err := insert(e.Epoch)
	if err != nil {
		return err
	}
	if !fresh {
		var asset, kind string
		var when int64
		err := tx.QueryRowContext(ctx, b.g.q("SELECT asset, kind, at FROM proofs WHERE box = ? AND epoch = ? AND evt = ?"),
			r.ID, e.Epoch, int64(e.Evt)).Scan(&asset, &kind, &when) //nolint:gosec // a count
		if err != nil || asset == e.Asset.String() && kind == e.Kind && when == ms(e.At) {
			return ignoreNoRows(err)
		}
		b.note(r, at, "number-reused", fmt.Sprintf("outbox number %d came with two contents", e.Evt))
		if fresh, err = insert(fmt.Sprintf("%s+%d", e.Epoch, at)); err != nil || !fresh {
			return err
		}
	}
	b.out.New++
	b.proved(r.ID, at)
	b.countArrival(r, e, known, at)
	b.note(r, at, e.Kind, e.Name+" "+e.Asset.Short())
	if e.Kind == mqttwire.EventErased {
		_, err = tx.ExecContext(ctx, b.g.q("DELETE FROM holdings WHERE asset = ? AND box = ?"), e.Asset.String(), r.ID)
	} else if e.Kind == mqttwire.EventArrived {
		_, err = tx.ExecContext(ctx, b.g.q("INSERT INTO holdings (box, asset, since) VALUES (?, ?, ?) "+
			"ON CONFLICT (asset, box) DO NOTHING"), r.ID, e.Asset.String(), at)
	}
	if err != nil {
		return fmt.Errorf("holdings of %s: %w", r.ID, err)
	}
	return nil
}

func ignoreNoRows(err error) error {
	if err == sql.ErrNoRows { //nolint:errorlint // Scan returns it bare
		return nil
	}
	return err
}

// answer takes a command's answer; a final one is never overwritten.
func (b *batch) answer(ctx context.Context, tx *sql.Tx, r *row, a *mqttwire.CommandAck, at int64) error {
	r.dirty = true
	var data any
	if len(a.Data) > 0 && json.Valid(a.Data) {
		data = []byte(a.Data)
	}
	res, err := tx.ExecContext(ctx, b.g.q("UPDATE command_boxes SET status = ?, code = ?, text = ?, data = ?, at = ? "+
		"WHERE box = ? AND id = ? AND status NOT IN ('done', 'failed')"), a.Status, a.Code, a.Text, data, at, r.ID, a.ID)
	if err != nil {
		return fmt.Errorf("answer of %s to %s: %w", r.ID, a.ID, err)
	}
	if n, err := res.RowsAffected(); err == nil && n > 0 && a.Status != mqttwire.StatusAccepted {
		b.note(r, at, "command", strings.TrimSpace(a.Name+" "+a.Status+" "+a.Code))
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
