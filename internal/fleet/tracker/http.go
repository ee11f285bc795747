package tracker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"boxd/internal/asset"

	"github.com/anacrolix/torrent/bencode"
)

// maxQuery bounds the query of an announce, in bytes.
const maxQuery = 4 << 10

// ServeHTTP answers GET announces (BEP 3). Faults of the request are answered with a "failure reason".
func (t *Tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	q, err := parseQuery(r.URL.RawQuery)
	var a Announce
	if err == nil {
		a, err = q.announce()
	}
	if err != nil {
		t.tally(false)
		answer(w, map[string]any{"failure reason": err.Error()})
		return
	}
	box, ok := t.opt.Box(r)
	if !ok && t.opt.Anonymous {
		box, ok = "peer:"+a.PeerID, true
	}
	addr, okAddr := t.opt.Addr(r)
	if !ok || !okAddr {
		t.tally(false)
		http.Error(w, "a client certificate of the fleet is needed", http.StatusForbidden)
		return
	}
	a.Box, a.Addr = box, netip.AddrPortFrom(addr, q.port)
	ans, err := t.Announce(a)
	if err != nil {
		answer(w, map[string]any{"failure reason": err.Error()})
		return
	}
	answer(w, encode(ans, q.compact, q.noPeerID))
}

func answer(w http.ResponseWriter, dict map[string]any) {
	b, err := bencode.Marshal(dict)
	if err != nil {
		http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // the box is gone; it announces again
}

// encode writes an answer: "peers" and "peers6" compact (BEP 23, BEP 7) unless the client said compact=0.
func encode(ans Answer, compact, noPeerID bool) map[string]any {
	// A tenth more or less, so that boxes that began together do not come back together.
	secs := int64(ans.Interval / time.Second)
	secs += rand.Int64N(secs/5+1) - secs/10
	dict := map[string]any{
		"interval": secs, "min interval": secs / 2, "complete": ans.Complete, "incomplete": ans.Incomplete,
	}
	if ans.ShareIndex >= 0 {
		dict["share index"], dict["share of"] = ans.ShareIndex, ans.ShareOf
	}
	if !compact {
		list := make([]any, 0, len(ans.Peers))
		for _, p := range ans.Peers {
			for a := range p.addrs {
				d := map[string]any{"ip": a.Addr().String(), "port": int(a.Port())}
				if !noPeerID {
					d["peer id"] = p.PeerID
				}
				list = append(list, d)
			}
		}
		dict["peers"] = list
		return dict
	}
	v4, v6 := []byte{}, []byte{}
	for _, p := range ans.Peers {
		for a := range p.addrs {
			port := a.Port()
			if a.Addr().Is4() {
				v4 = append(append(v4, a.Addr().AsSlice()...), byte(port>>8), byte(port))
			} else {
				v6 = append(append(v6, a.Addr().AsSlice()...), byte(port>>8), byte(port))
			}
		}
	}
	dict["peers"] = v4
	if len(v6) > 0 {
		dict["peers6"] = v6
	}
	return dict
}

// addrs goes through the addresses of a peer.
func (p Peer) addrs(yield func(netip.AddrPort) bool) {
	if p.Addr.IsValid() && yield(p.Addr) && p.Other.IsValid() {
		yield(p.Other)
	}
}

// query is an announce as it came.
type query struct {
	values            map[string]string
	port              uint16
	compact, noPeerID bool
}

// parseQuery splits a query by hand: url.ParseQuery drops what it cannot read and takes the first of two equal keys, and an
// announce that is not clear is better refused.
func parseQuery(raw string) (*query, error) {
	if len(raw) > maxQuery {
		return nil, fmt.Errorf("query of more than %d bytes", maxQuery)
	}
	q := &query{values: map[string]string{}}
	for part := range strings.SplitSeq(raw, "&") {
		k, v, _ := strings.Cut(part, "=")
		key, err := url.QueryUnescape(k)
		if err != nil {
			return nil, errors.New("the query is not URL-encoded")
		}
		val, err := url.QueryUnescape(v)
		if err != nil {
			return nil, errors.New("the query is not URL-encoded")
		}
		if _, twice := q.values[key]; twice {
			return nil, fmt.Errorf("%.20q is there twice", key)
		}
		q.values[key] = val
	}
	return q, nil
}

func (q *query) announce() (Announce, error) {
	var a Announce
	h := q.values["info_hash"]
	if len(h) != asset.HashSize {
		return a, errors.New("info_hash is not 20 bytes")
	}
	copy(a.ID[:], h)
	a.PeerID = q.values["peer_id"]
	if len(a.PeerID) != 20 {
		return a, errors.New("peer_id is not 20 bytes")
	}
	port, err := strconv.ParseUint(q.values["port"], 10, 16)
	if err != nil || port == 0 {
		return a, errors.New("port is not 1 to 65535")
	}
	q.port = uint16(port)
	left, err := strconv.ParseInt(q.values["left"], 10, 64)
	if q.values["left"] != "" && (err != nil || left < 0) {
		return a, errors.New("left is not a number of bytes")
	}
	a.Complete = q.values["left"] != "" && left == 0
	switch q.values["event"] {
	case "", "started", "empty", "paused":
	case "completed":
		a.Complete = true
	case "stopped":
		a.Stopped = true
	default:
		return a, errors.New("unknown event")
	}
	a.Want = MaxPeers
	if s := q.values["numwant"]; s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return a, errors.New("numwant is not a number")
		}
		if n >= 0 { // some clients send -1 for "as you like"
			a.Want = n
		}
	}
	q.compact = q.values["compact"] != "0"
	q.noPeerID = q.values["no_peer_id"] == "1"
	return a, nil
}
