// Package tracker asks the fleet's tracker for the peers of an asset: BEP 3 announces over HTTPS with the box's
// certificate, with compact peers for IPv4 and IPv6 (BEP 7, BEP 23) or a list.
//
// Invariants: an answer is bounded in bytes and in peers; every address in it is valid and has a port. Nothing here
// retries: the caller decides when to ask again, never sooner than the answer's interval.
package tracker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/anacrolix/torrent/bencode"

	"boxd/internal/asset"
)

// Limits of an answer.
const (
	maxBytes    = 64 << 10
	MaxPeers    = 50
	maxAddrs    = 2 * MaxPeers // a box may have an address of each family
	minInterval = 5 * time.Second
	maxInterval = 2 * time.Hour
	defInterval = 5 * time.Minute
)

// Event of an announce (BEP 3).
type Event string

// The events; the empty one is a regular announce.
const (
	Regular   Event = ""
	Started   Event = "started"
	Completed Event = "completed"
	Stopped   Event = "stopped"
)

// Request is one announce.
type Request struct {
	Asset                      asset.ID
	PeerID                     [20]byte
	Port                       int // where the swarm listens, as seen from outside
	Uploaded, Downloaded, Left int64
	Event                      Event
	Want                       int // peers; 0 means MaxPeers
}

// Peer is one address of the swarm.
type Peer struct {
	Box  string // empty unless the tracker names it
	Addr netip.AddrPort
}

// Answer of a tracker.
type Answer struct {
	Interval   time.Duration // until the next regular announce
	Peers      []Peer
	Complete   int // peers that have everything, as far as the tracker knows
	Incomplete int
	Warning    string
	// ShareIndex and ShareOf are this box's place among the boxes that share the origin's pieces; ShareOf 0: not told.
	ShareIndex, ShareOf int
}

// ErrRefused is wrapped when the tracker answers with a failure reason.
var ErrRefused = errors.New("the tracker refuses")

// Announce sends one announce to a tracker.
func Announce(ctx context.Context, c *http.Client, tracker string, r Request) (Answer, error) {
	u, err := url.Parse(tracker)
	if err != nil {
		return Answer{}, fmt.Errorf("announce: %w", err)
	}
	q := u.Query()
	want := r.Want
	if want <= 0 {
		want = MaxPeers
	}
	for k, v := range map[string]string{
		"info_hash": string(r.Asset[:]), "peer_id": string(r.PeerID[:]), "port": strconv.Itoa(r.Port),
		"uploaded": strconv.FormatInt(r.Uploaded, 10), "downloaded": strconv.FormatInt(r.Downloaded, 10),
		"left": strconv.FormatInt(r.Left, 10), "compact": "1", "numwant": strconv.Itoa(want),
	} {
		q.Set(k, v)
	}
	if r.Event != Regular {
		q.Set("event", string(r.Event))
	}
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return Answer{}, fmt.Errorf("announce: %w", err)
	}
	req.Header.Set("User-Agent", "boxd")
	resp, err := c.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("announce %s: %w", r.Asset.Short(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBytes+1))
	if err != nil {
		return Answer{}, fmt.Errorf("announce %s: %w", r.Asset.Short(), err)
	}
	if resp.StatusCode != http.StatusOK {
		return Answer{}, fmt.Errorf("announce %s: %w: %s", r.Asset.Short(), ErrRefused, resp.Status)
	}
	a, err := Parse(body)
	if err != nil {
		return Answer{}, fmt.Errorf("announce %s: %w", r.Asset.Short(), err)
	}
	return a, nil
}

type rawAnswer struct {
	Failure     string        `bencode:"failure reason"`
	Warning     string        `bencode:"warning message"`
	Interval    int64         `bencode:"interval"`
	MinInterval int64         `bencode:"min interval"`
	Complete    int           `bencode:"complete"`
	Incomplete  int           `bencode:"incomplete"`
	Peers       bencode.Bytes `bencode:"peers"`
	Peers6      []byte        `bencode:"peers6"`
	ShareIndex  int           `bencode:"share index"` // our tracker's own keys
	ShareOf     int           `bencode:"share of"`
}

type rawPeer struct {
	IP   string `bencode:"ip"`
	Port int64  `bencode:"port"`
	Box  string `bencode:"box"` // our tracker's own key
}

// Parse reads a tracker's answer.
func Parse(b []byte) (Answer, error) {
	if len(b) > maxBytes {
		return Answer{}, fmt.Errorf("tracker answer: more than %d bytes", maxBytes)
	}
	var raw rawAnswer
	if err := bencode.Unmarshal(b, &raw); err != nil {
		return Answer{}, fmt.Errorf("tracker answer: %w", err)
	}
	if raw.Failure != "" {
		return Answer{}, fmt.Errorf("%w: %s", ErrRefused, printable(raw.Failure))
	}
	a := Answer{
		Interval: interval(max(raw.Interval, raw.MinInterval)), Warning: printable(raw.Warning),
		Complete: max(raw.Complete, 0), Incomplete: max(raw.Incomplete, 0),
	}
	if raw.ShareOf > 0 && raw.ShareIndex >= 0 && raw.ShareIndex < raw.ShareOf {
		a.ShareIndex, a.ShareOf = raw.ShareIndex, raw.ShareOf
	}
	if err := a.addPeers(raw.Peers); err != nil {
		return Answer{}, err
	}
	if err := a.addCompact(raw.Peers6, 16); err != nil {
		return Answer{}, err
	}
	return a, nil
}

func (a *Answer) addPeers(raw bencode.Bytes) error {
	switch {
	case len(raw) == 0:
		return nil
	case raw[0] == 'l':
		var list []rawPeer
		if err := bencode.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("tracker answer: peers: %w", err)
		}
		for _, p := range list {
			ip, err := netip.ParseAddr(p.IP)
			if err != nil || p.Port <= 0 || p.Port > 65535 {
				continue // one bad entry does not spoil the others
			}
			a.add(Peer{Box: boxName(p.Box), Addr: netip.AddrPortFrom(ip.Unmap(), uint16(p.Port))})
		}
		return nil
	}
	var compact []byte
	if err := bencode.Unmarshal(raw, &compact); err != nil {
		return fmt.Errorf("tracker answer: peers: %w", err)
	}
	return a.addCompact(compact, 4)
}

// addCompact reads addresses of n bytes with a port of two (BEP 23 and BEP 7).
func (a *Answer) addCompact(b []byte, n int) error {
	if len(b)%(n+2) != 0 {
		return fmt.Errorf("tracker answer: %d bytes of compact peers of %d", len(b), n+2)
	}
	for ; len(b) > 0; b = b[n+2:] {
		ip, _ := netip.AddrFromSlice(b[:n])
		if port := binary.BigEndian.Uint16(b[n:]); port != 0 {
			a.add(Peer{Addr: netip.AddrPortFrom(ip.Unmap(), port)})
		}
	}
	return nil
}

func (a *Answer) add(p Peer) {
	if ip := p.Addr.Addr(); len(a.Peers) < maxAddrs && !ip.IsUnspecified() && !ip.IsMulticast() && ip.Zone() == "" {
		a.Peers = append(a.Peers, p)
	}
}

func interval(seconds int64) time.Duration {
	if seconds <= 0 {
		return defInterval
	}
	if seconds > int64(maxInterval/time.Second) {
		return maxInterval
	}
	return max(time.Duration(seconds)*time.Second, minInterval)
}

// boxName takes a name only if it looks like one.
func boxName(s string) string {
	if len(s) > 40 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return ""
	}
	return s
}

func printable(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}
