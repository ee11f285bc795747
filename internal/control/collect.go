package control

import (
	"cmp"
	"fmt"
	"mime"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"boxd/internal/asset"
	"boxd/internal/cache"
	"boxd/internal/catalog"
	"boxd/internal/health"
)

// Snapshot looks at every service and puts the box together.
func (b *Box) Snapshot() *Snapshot {
	now, trusted := b.o.Identity.Now()
	cat := b.o.Catalog.Snapshot()
	var fs FetchState
	if b.o.Fetch != nil {
		fs = b.o.Fetch.State()
	}
	s := &Snapshot{
		Schema: Schema, Time: now, Version: b.o.Version, Uptime: time.Since(b.start).Seconds(),
		Box:   b.box(),
		Clock: b.clock(now, trusted),
		Cache: b.disk(),
		Catalog: Catalog{
			Version: cat.Version, Expires: cat.Expires, Fresh: cat.Version > 0 && cat.Fresh(now), Assets: len(cat.Assets),
		},
		Fetch:   fs.Fetch,
		Peers:   append([]Peer{}, fs.Peers...),
		Health:  append([]health.Warning{}, b.o.Health.List()...),
		Process: readProcess(),
	}
	if b.o.Broker != nil {
		s.Broker = b.o.Broker()
	}
	s.Fetch.Players, s.Fetch.Playback = b.playback.State()
	b.mu.Lock()
	s.Fetch.Limits, s.Fetch.Paused = b.limits.effective(), b.limits.paused || b.limits.remotePaused
	b.mu.Unlock()
	s.Assets = b.assets(cat, fs, MaxFiles)
	for _, a := range s.Assets {
		s.Cache.Used += a.Verified
	}
	s.Campaigns = campaigns(cat)
	s.Home, s.Strangers = b.home(), b.strangers()
	s.Given = append([]Given{}, fs.Given...)
	exchange(s.Home, s.Given)
	b.ledger.rate(s.Peers)
	s.State, s.Summary = judge(s)
	return s
}

func (b *Box) box() Self {
	host := b.o.Host
	if host == "" {
		host, _ = os.Hostname() // shown only; empty is fine
	}
	return Self{
		ID: b.o.Identity.BoxID(), Fleet: b.o.Identity.Fleet(), Group: b.o.Identity.Group(), Host: host, HTTP: b.o.HTTP,
		Enrolled: b.o.Identity.Enrolled(), CertificateExpires: b.o.Identity.Expires(),
	}
}

func (b *Box) clock(now time.Time, trusted bool) Clock {
	b.mu.Lock()
	loc := b.cfg.Location()
	b.mu.Unlock()
	name, offset := now.In(loc).Zone()
	if loc.String() != "Local" {
		name = loc.String()
	}
	return Clock{Now: now, Trusted: trusted, Timezone: name, Offset: offset}
}

func (b *Box) disk() Cache {
	u := b.o.Cache.Usage()
	c := Cache{Quota: u.Quota, Effective: u.Quota, Reserved: u.Used, Reserve: u.Reserve, Free: u.Free, Total: u.Total}
	if room := u.Used + u.Free - u.Reserve; u.Free >= 0 && room < u.Quota {
		c.Effective = max(room, 0)
	}
	return c
}

// assets is everything that the catalog wants or the cache holds.
func (b *Box) assets(cat *catalog.Snapshot, fs FetchState, maxFiles int) []Asset {
	byID := map[asset.ID]*Asset{}
	at := func(id asset.ID) *Asset {
		a, ok := byID[id]
		if !ok {
			a = &Asset{ID: id, State: Accepted, Files: []File{}}
			byID[id] = a
		}
		return a
	}
	for id, ca := range cat.Assets {
		fromCatalog(at(id), ca, maxFiles)
	}
	for _, r := range cat.Rejected {
		a := at(r.ID)
		a.State, a.Code, a.Why, a.Name = Rejected, catalog.CodeAsset, r.Reason, cmp.Or(a.Name, path.Base(r.Path))
	}
	for _, st := range b.o.Cache.Assets() {
		a := at(st.ID)
		fromCache(a, st)
		if a.FileCount == 0 {
			if ca, ok := b.o.Cache.Asset(st.ID); ok {
				setFiles(a, ca.Info(), nil, maxFiles)
			}
		}
	}
	for id, f := range fs.Assets {
		if a, ok := byID[id]; ok {
			fromFetch(a, f)
		}
	}
	for _, c := range cat.Campaigns {
		for _, ref := range c.Assets {
			if a, ok := byID[ref.ID]; ok && a.Campaign == "" {
				a.Campaign = c.ID
				a.Deadline, a.KeepUntil = c.Deadline, c.KeepUntil
			}
		}
	}
	list := make([]Asset, 0, len(byID))
	for _, a := range byID {
		a.Name = cmp.Or(a.Name, a.ID.Short())
		list = append(list, *a)
	}
	slices.SortFunc(list, order)
	return list
}

// order puts what is on its way first, by deadline, then what is here by name.
func order(x, y Asset) int {
	rank := func(a Asset) int {
		switch a.State {
		case Fetching, Checked:
			return 0
		case Failed, Rejected:
			return 1
		case Accepted:
			return 2
		default:
			return 3
		}
	}
	due := func(a Asset) int64 {
		if a.State == Ready || a.Deadline.IsZero() {
			return 1 << 62
		}
		return a.Deadline.Unix()
	}
	return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(due(x), due(y)), strings.Compare(x.Name, y.Name),
		slices.Compare(x.ID[:], y.ID[:]))
}

func fromCatalog(a *Asset, ca *catalog.Asset, maxFiles int) {
	a.Name, a.Version, a.Publisher = ca.Name, ca.Version, ca.Publisher
	if a.Name == "" {
		a.Name = ca.Info.Name
	}
	a.Length, a.Pieces = ca.Info.Length, ca.Info.NumPieces()
	setFiles(a, ca.Info, ca.Types, maxFiles)
}

func fromCache(a *Asset, st cache.Status) {
	a.Name, a.Version = cmp.Or(a.Name, st.Attr.Name), cmp.Or(a.Version, st.Attr.Version)
	a.Publisher = cmp.Or(a.Publisher, st.Attr.Publisher)
	a.Length, a.Verified, a.Pieces, a.HavePieces = st.Length, st.Bytes, st.Pieces, st.Have
	a.Pinned, a.Readers, a.ReadBack = st.Pinned, st.Readers, st.Checked
	a.Priority, a.Deadline, a.KeepUntil = st.Attr.Priority, st.Attr.Deadline, st.Attr.KeepUntil
	switch {
	case st.Complete && st.Durable:
		a.State, a.Why = Ready, "It is here, whole and verified." // also before the fetcher has looked at it
	case st.Complete:
		a.State = Checked
	case st.Have > 0:
		a.State = Fetching
	}
}

func fromFetch(a *Asset, f AssetFetch) {
	if f.State != "" {
		a.State = f.State
	}
	a.Code, a.Reason, a.Why = cmp.Or(f.Code, a.Code), f.Reason, cmp.Or(f.Why, a.Why)
	a.Started, a.Completed, a.Counting = f.Started, f.Done, f.Accepted
	a.Role, a.Courier, a.Campaign, a.Peers = f.Role, f.Courier, f.Campaign, f.Peers
	a.Rates, a.Rate, a.Bytes = f.Rates, f.Rates.Total(), f.Bytes
	a.Priority, a.Danger, a.Late, a.ETA = f.Priority, f.Danger, f.Late, f.ETA
	if !f.Deadline.IsZero() {
		a.Deadline = f.Deadline
	}
	if !f.KeepUntil.IsZero() {
		a.KeepUntil = f.KeepUntil
	}
}

func setFiles(a *Asset, in *asset.Info, types map[string]string, maxFiles int) {
	a.FileCount = len(in.Files)
	a.Files = make([]File, 0, min(len(in.Files), maxFiles))
	for _, f := range in.Files {
		if len(a.Files) == maxFiles {
			break
		}
		a.Files = append(a.Files, File{
			Path: f.Path, Length: f.Length, Type: contentType(f.Path, types[f.Path]), URL: mediaURL(in.ID, f.Path),
		})
	}
}

// mediaURL is where a file is played from, below the box's HTTP address.
func mediaURL(id asset.ID, file string) string {
	parts := strings.Split(file, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/assets/" + id.String() + "/" + strings.Join(parts, "/")
}

// mediaTypes is what players need to be told; the system's own table differs from machine to machine.
var mediaTypes = map[string]string{
	".mp4": "video/mp4", ".m4v": "video/mp4", ".m4s": "video/iso.segment", ".cmfv": "video/mp4", ".cmfa": "audio/mp4",
	".webm": "video/webm", ".mkv": "video/matroska", ".mov": "video/quicktime", ".ts": "video/mp2t", ".mpg": "video/mpeg",
	".m4a": "audio/mp4", ".mp3": "audio/mpeg", ".aac": "audio/aac", ".ogg": "audio/ogg", ".opus": "audio/ogg",
	".flac": "audio/flac", ".wav": "audio/wav", ".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml",
	".vtt": "text/vtt; charset=utf-8", ".srt": "application/x-subrip", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
	".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml", ".json": "application/json",
	".xml": "application/xml", ".txt": "text/plain; charset=utf-8",
}

const unknownType = "application/octet-stream"

// contentType is the catalog's word when it has one that is well formed, else the extension's.
func contentType(file, signed string) string {
	if signed != "" {
		if t, params, err := mime.ParseMediaType(signed); err == nil && strings.Contains(t, "/") {
			return mime.FormatMediaType(t, params)
		}
	}
	if t, ok := mediaTypes[strings.ToLower(path.Ext(file))]; ok {
		return t
	}
	return unknownType
}

func campaigns(cat *catalog.Snapshot) []Campaign {
	list := make([]Campaign, 0, len(cat.Campaigns))
	for _, c := range cat.Campaigns {
		out := Campaign{
			ID: c.ID, Name: cmp.Or(c.Name, c.ID), Group: c.Group, NotBefore: c.NotBefore, Deadline: c.Deadline,
			KeepUntil: c.KeepUntil, Priority: c.Priority, Paused: c.Paused, Assets: []asset.ID{}, Windows: []Window{},
		}
		for _, ref := range c.Assets {
			out.Assets = append(out.Assets, ref.ID)
		}
		for _, w := range c.Windows {
			out.Windows = append(out.Windows, Window{
				Days: append([]string{}, w.Days...), From: w.From, To: w.To, Rate: w.RateBytesPerSecond,
			})
		}
		list = append(list, out)
	}
	return list
}

func (b *Box) home() []Neighbour {
	list := []Neighbour{}
	if b.o.LAN == nil {
		return list
	}
	for _, n := range b.o.LAN.Neighbours() {
		got := make([]Got, 0, len(n.Got))
		for _, g := range n.Got {
			got = append(got, Got{ID: g.Box, Bytes: g.Bytes})
		}
		carries := 0
		for _, w := range n.Wants {
			if w.Acting {
				carries++
			}
		}
		list = append(list, Neighbour{
			Got: got, WANGot: n.WANGot, Courier: carries, Health: string(n.Health),
			ID: n.ID, Address: n.Addr.String(), Class: n.Class, WAN: n.WAN, Holds: len(n.Holds), Wants: len(n.Wants),
			Since: n.Since, LastSeen: n.LastSeen, RTT: n.RTT.Seconds(),
		})
	}
	slices.SortFunc(list, func(x, y Neighbour) int { return strings.Compare(x.ID, y.ID) })
	return list
}

// exchange tells each box of the home what it gave and got.
func exchange(home []Neighbour, given []Given) {
	for i := range home {
		for _, g := range given {
			if g.Link == linkLAN && g.ID == home[i].ID {
				home[i].Received, home[i].Sent = g.Received, g.Sent
			}
		}
	}
}

// judge says in one word and one sentence how the box is.
func judge(s *Snapshot) (State, string) {
	var ready, coming, waiting, stuck int
	for _, a := range s.Assets {
		switch {
		case a.State == Ready:
			ready++
		case a.State == Rejected || a.State == Failed:
			stuck++
		case a.Rate > 0 || a.State == Checked:
			coming++
		default:
			waiting++
		}
	}
	for _, w := range s.Health {
		if w.Severity == health.Critical {
			return StateAttention, w.Text
		}
	}
	switch {
	case !s.Box.Enrolled:
		return StateEnrolling, "Waiting for a certificate from the fleet manager."
	case s.Fetch.Paused:
		return StatePaused, "Fetching is paused; what is here plays."
	case coming > 0:
		return StateFetching, fmt.Sprintf("Fetching %s, %s ready.", count(coming, "asset"), count(ready, "asset"))
	case waiting > 0:
		return StateWaiting, fmt.Sprintf("%s waiting for a window or a source, %s ready.", count(waiting, "asset"),
			count(ready, "asset"))
	case stuck > 0:
		return StateWaiting, fmt.Sprintf("%s cannot be fetched, %s ready.", count(stuck, "asset"), count(ready, "asset"))
	case len(s.Assets) == 0:
		return StateIdle, "No campaign asks for anything yet."
	}
	return StateIdle, "Everything that is wanted is here."
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
