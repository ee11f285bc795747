package mgmt

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"boxd/internal/asset"
	"boxd/internal/mqttwire"
)

// Status is how the session is doing, for the box's other faces.
type Status struct {
	Connected bool      `json:"connected"`
	Broker    string    `json:"broker,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	Sessions  uint64    `json:"sessions"`
	Outbox    int       `json:"outbox"`
	Published uint64    `json:"published"`
	Dropped   uint64    `json:"tele_dropped"`
	LastError string    `json:"last_error,omitempty"`
}

type status struct {
	mu sync.Mutex // guards s
	s  Status
}

func (s *status) set(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.s)
}

// Status returns the session's state.
func (m *Manager) Status() Status {
	m.status.mu.Lock()
	s := m.status.s
	m.status.mu.Unlock()
	s.Outbox, s.Dropped = m.outbox.length(), m.tele.dropped()
	return s
}

// reported builds the message and two hashes: one of what matters at once, one that progress changes too.
func (m *Manager) reported() (msg *mqttwire.Reported, urgent, all uint64) {
	rep := m.o.Box.Report()
	r := &mqttwire.Reported{
		Software: clip(rep.Software, 100), ClockTrusted: rep.ClockTrusted, CatalogVersion: rep.CatalogVersion,
		CatalogExpires: rep.CatalogExpires, Paused: rep.Paused, Traffic: rep.Traffic, Disk: rep.Disk,
		Household: rep.Household, CertExpires: rep.CertExpires,
		OutboxLen: m.outbox.length(), OutboxLost: m.lost.Load(), TeleDropped: m.tele.dropped(),
	}
	r.Home = mostShared(rep.Home)
	m.desired.fill(r)
	n := min(len(rep.Assets), mqttwire.MaxAssets)
	r.More = len(rep.Assets) - n
	for _, a := range rep.Assets[:n] {
		a.Why, a.Code, a.Role = clip(a.Why, 160), clip(a.Code, 64), clip(a.Role, 20)
		r.Assets = append(r.Assets, a)
	}
	for _, w := range rep.Health[:min(len(rep.Health), mqttwire.MaxHealth)] {
		r.Health = append(r.Health, mqttwire.Warning{
			Code: w.Code, Severity: string(w.Severity), Text: clip(w.Text, 120), Since: w.Since,
		})
	}
	ids := make([]asset.ID, len(rep.Holdings))
	for i, h := range rep.Holdings {
		ids[i] = h.ID
		r.Holdings.Bytes += h.Size
	}
	r.Holdings.Count, r.Holdings.Digest = len(ids), mqttwire.HoldingsDigest(ids)
	return r, m.urgentHash(r), progressHash(r)
}

// progressHash is of all that a report tells, with those figures made coarse that change although nothing happens here.
func progressHash(r *mqttwire.Reported) uint64 {
	c := *r
	size := uint64(max(0, c.Disk.Free) + max(0, c.Disk.Used))
	c.Disk.Free >>= max(0, bits.Len64(size)-7) // others write to the same disk
	c.Assets = slices.Clone(r.Assets)
	for i := range c.Assets {
		c.Assets[i].ETA /= 60
	}
	return hashOf(c)
}

// mostShared keeps the boxes with which most was shared, in the order of their names.
func mostShared(all []mqttwire.Shared) []mqttwire.Shared {
	list := slices.DeleteFunc(slices.Clone(all), func(s mqttwire.Shared) bool { return !mqttwire.ValidBox(s.Box) })
	slices.SortFunc(list, func(a, b mqttwire.Shared) int {
		return cmp.Or(cmp.Compare(b.Got+b.Gave, a.Got+a.Gave), strings.Compare(a.Box, b.Box))
	})
	list = list[:min(len(list), mqttwire.MaxHome)]
	slices.SortFunc(list, func(a, b mqttwire.Shared) int { return strings.Compare(a.Box, b.Box) })
	return list
}

// hashSeed makes hashes comparable within this process, which is all they are for.
var hashSeed = maphash.MakeSeed()

func hashOf(v any) uint64 {
	data, err := json.Marshal(v)
	if err != nil {
		return 0
	}
	return maphash.Bytes(hashSeed, data)
}

func (m *Manager) urgentHash(r *mqttwire.Reported) uint64 {
	type key struct {
		Versions any
		Assets   []string
		Holdings string
		Health   []string
		Paused   bool
	}
	k := key{Holdings: r.Holdings.Digest, Paused: r.Paused}
	k.Versions = []any{r.DesiredVersion, r.GroupVersions, r.CatalogVersion, r.Refused, r.ClockTrusted}
	for _, a := range r.Assets {
		k.Assets = append(k.Assets, a.ID.String()+a.State+a.Code+a.Role+fmt.Sprint(a.Late))
	}
	for _, h := range r.Health {
		k.Health = append(k.Health, h.Code+h.Severity)
	}
	return hashOf(k)
}

// encodeReported sheds the home, the least important assets, then texts, until the message fits its cap.
func encodeReported(r *mqttwire.Reported) ([]byte, error) {
	for {
		data, err := mqttwire.Encode(mqttwire.MaxPayload, r)
		if !errors.Is(err, mqttwire.ErrTooBig) {
			return data, err
		}
		switch {
		case len(r.Home) > 0:
			r.Home = nil
		case len(r.Assets) > 4:
			r.More += len(r.Assets) - len(r.Assets)*3/4
			r.Assets = r.Assets[:len(r.Assets)*3/4]
		case len(r.Health) > 0:
			r.Health = r.Health[:len(r.Health)/2]
		default:
			return nil, err
		}
	}
}

// clip bounds a text in bytes without cutting a character and replaces what is not UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, size := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && size == 1 {
			s = s[:len(s)-1]
		}
	}
	if !utf8.ValidString(s) {
		s = string([]rune(s[:min(len(s), n/3)]))
	}
	return strings.ReplaceAll(s, "\x00", "") // mqttwire refuses it, and what is refused would never arrive
}

// teleRing keeps the newest samples while there is no session; the oldest go first and are counted.
type teleRing struct {
	mu   sync.Mutex // guards the fields below
	buf  []mqttwire.Tele
	lost uint64
}

const teleKeep = 32

func (t *teleRing) put(s mqttwire.Tele) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) >= teleKeep {
		t.buf = t.buf[1:]
		t.lost++
	}
	t.buf = append(t.buf, s)
}

func (t *teleRing) take() []mqttwire.Tele {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.buf
	t.buf = nil
	return list
}

func (t *teleRing) dropped() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

// sample takes telemetry at its period, connected or not.
func (m *Manager) sample(ctx context.Context) error {
	tick := time.NewTicker(m.o.TelePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := m.o.Box.Tele()
		now, _ := m.o.Now()
		s.TS, s.MonoMS = now, time.Since(m.start).Milliseconds()
		m.tele.put(s)
	}
}

// uploadLoop sends the list of holdings by HTTPS when its digest changed: it is too long for a message.
func (m *Manager) uploadLoop(ctx context.Context) error {
	for attempt := 0; ; {
		changed := m.outbox.Changed() // holdings change with their proofs
		err := m.uploadHoldings(ctx)
		var broken *dbError
		if errors.As(err, &broken) {
			return err
		}
		wait := time.Hour
		if err != nil {
			wait = backoff(10*time.Second, 10*time.Minute, attempt)
			attempt++
			m.o.Log.Debug("upload of holdings failed", "err", err)
		} else {
			attempt = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-changed:
			t.Stop()
			sleep(ctx, 3*time.Second)
		case <-t.C:
		}
	}
}

func (m *Manager) uploadHoldings(ctx context.Context) error {
	rep := m.o.Box.Report()
	if !rep.HoldingsKnown || m.o.BoxID() == "" {
		return nil
	}
	doc := mqttwire.HoldingsList{V: mqttwire.Version, Epoch: m.epoch}
	ids := make([]asset.ID, 0, len(rep.Holdings))
	for _, h := range rep.Holdings {
		ids = append(ids, h.ID)
		doc.Assets = append(doc.Assets, mqttwire.HeldAsset{ID: h.ID, Size: h.Size, At: h.At})
	}
	doc.Digest = mqttwire.HoldingsDigest(ids)
	var last string
	err := m.o.DB.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(bucketSession)); b != nil {
			last = string(b.Get([]byte("uploaded")))
		}
		return nil
	})
	if err != nil || last == doc.Digest {
		return dbErr("read last upload", err)
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if err := m.o.Upload(ctx, "holdings", body); err != nil {
		return fmt.Errorf("upload holdings: %w", err)
	}
	return dbErr("note the upload", m.o.DB.Update(func(tx *bbolt.Tx) error {
		b, err := bucket(tx, bucketSession)
		if err != nil {
			return err
		}
		return b.Put([]byte("uploaded"), []byte(doc.Digest))
	}))
}

// uploadResult moves a result that is too long for a message to HTTPS and returns what stands in its place.
func (m *Manager) uploadResult(ctx context.Context, id string, data json.RawMessage) json.RawMessage {
	place := map[string]any{"bytes": len(data), "uploaded": false}
	if m.o.Upload != nil {
		if err := m.o.Upload(ctx, "result-"+id, data); err != nil {
			place["error"] = clip(err.Error(), 200)
		} else {
			place["uploaded"] = true
		}
	}
	out, err := json.Marshal(place)
	if err != nil {
		return nil
	}
	return out
}
