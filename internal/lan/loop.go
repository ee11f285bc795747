package lan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"boxd/internal/health"
)

const (
	resolveEvery = 30 * time.Second // the names in the static list
	expireEvery  = 10 * time.Second
)

// advert is what this box says about itself by mDNS.
type advert struct {
	id, fleetHash, nonce string
	port                 int
}

// hint is what somebody said by mDNS about a box, itself or another.
type hint struct {
	id, fleetHash string
	port          int
	addrs         []netip.Addr
}

// discoverer advertises and browses on the interfaces until ctx ends.
type discoverer func(ctx context.Context, ad advert, nics []nic, found func(hint)) error

// fleetHash tells fleets apart in mDNS without naming them.
func fleetHash(fleet string) string {
	sum := sha256.Sum256([]byte("boxd fleet " + fleet))
	return hex.EncodeToString(sum[:4])
}

// loop dials, judges and keeps discovery going until ctx ends.
func (l *LAN) loop(ctx context.Context, moved <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	stopDiscovery := func() {}
	defer func() { stopDiscovery() }()
	restart := func() {
		stopDiscovery()
		stopDiscovery = l.startDiscovery(ctx)
	}
	last := l.opt.now()
	var resolved, expired time.Time
	identity := l.opt.Identity.Changed()
	l.newIdentity()
	restart()
	for {
		now := l.opt.now()
		if slept(last, now) {
			l.log.Info("slept or stood still", "for", now.Round(0).Sub(last.Round(0)).String())
			l.wokeUp()
			restart()
		}
		last = now
		l.mu.Lock()
		l.ticked = now
		l.mu.Unlock()
		if now.Sub(resolved) >= resolveEvery && len(l.opt.Static) > 0 {
			resolved = now
			l.spawn(func() { l.resolveStatic(ctx) })
		}
		l.mu.Lock()
		if now.Sub(expired) >= expireEvery {
			expired = now
			l.found.expire(now, func(id string) bool { return l.links[id] != nil })
			l.forgetTwin(now)
		}
		l.dialDue(ctx, now)
		l.judge(now)
		l.tickRefresh()
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			ticker.Reset(tick)
		case <-l.anew:
			ticker.Reset(hearTime + time.Millisecond)
		case <-moved:
			if l.moved() {
				restart()
			}
		case <-identity:
			identity = l.opt.Identity.Changed()
			if l.newIdentity() {
				restart()
			}
		}
	}
}

// forgetTwin takes back the warning of a box with the same identity when none was met for long.
func (l *LAN) forgetTwin(now time.Time) {
	if !l.twin.IsZero() && now.Sub(l.twin) > twinGone {
		l.twin = time.Time{}
		l.opt.Health.Clear(codeCloned)
	}
}

// slept reports whether this process stood still for so long that its neighbours have given it up: a suspended
// machine (only the wall clock went on) or a stopped process.
func slept(last, now time.Time) bool {
	return now.Sub(last) > silence || now.Round(0).Sub(last.Round(0)) > silence
}

// wokeUp forgets the courierships: others have taken them over.
func (l *LAN) wokeUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.acting)
	clear(l.watch)
	l.settle()
	l.found.all(l.opt.now())
	l.refresh()
}

// tickRefresh is refresh when time alone may have changed an election; the caller holds the mutex.
func (l *LAN) tickRefresh() {
	if l.electAll() {
		l.wake()
	}
	l.encode()
}

// newIdentity takes over the box id and fleet and reports whether they changed. All links are of the old self then.
func (l *LAN) newIdentity() bool {
	id, fleet := l.opt.Identity.BoxID(), l.opt.Identity.Fleet()
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.id && fleet == l.fleet {
		return false
	}
	l.id, l.fleet = id, fleet
	clear(l.acting)
	for _, k := range l.links {
		k.shut()
	}
	l.settle()
	l.refresh()
	return true
}

// moved reads the interfaces again and reports whether they changed.
func (l *LAN) moved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.readNICs() {
		return false
	}
	l.log.Info("interfaces changed", "prefixes", len(l.onlink))
	for _, k := range l.links {
		if a := localAddr(k.conn); a.IsValid() && !l.own[a] && !a.IsLoopback() {
			k.shut() // its address is gone: nothing will come any more
		}
	}
	l.settle()
	l.found.all(l.opt.now())
	l.refresh()
	return true
}

// startDiscovery runs mDNS until the returned function, which waits for its end, is called.
func (l *LAN) startDiscovery(ctx context.Context) (stop func()) {
	nics, err := l.opt.nics()
	if err != nil {
		l.log.Warn("read the interfaces", "err", err)
	}
	l.mu.Lock()
	ad := advert{id: l.id, fleetHash: fleetHash(l.fleet), nonce: l.nonce[:8], port: l.opt.Port}
	l.mu.Unlock()
	if !l.opt.MDNS || ad.id == "" || len(nics) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	l.spawn(func() {
		defer close(done)
		l.keepDiscovering(ctx, ad, nics)
	})
	return func() {
		cancel()
		<-done
	}
}

func (l *LAN) keepDiscovering(ctx context.Context, ad advert, nics []nic) {
	const code = "lan-mdns"
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryHint) {
		err := l.opt.discover(ctx, ad, nics, func(h hint) { l.takeHint(ad, h) })
		if err == nil || ctx.Err() != nil {
			break
		}
		l.log.Warn("mDNS", "err", err)
		l.opt.Health.Raise(health.Warning{
			Code: code, Severity: health.Warn,
			Text:   "boxes in this home cannot be found by mDNS: " + err.Error(),
			Action: "name the neighbours in lan.static, or allow multicast and UDP port 5353",
		})
		select {
		case <-ctx.Done():
		case <-time.After(jitter(wait)):
		}
	}
	l.opt.Health.Clear(code)
}

// takeHint turns what mDNS said into addresses to try. It is only a hint: anybody on the link can say anything.
func (l *LAN) takeHint(ad advert, h hint) {
	switch {
	case h.id == ad.id:
		return
	case h.fleetHash != ad.fleetHash, h.port < 1 || h.port > 65535, h.id == "" || len(h.id) > maxBoxID:
		l.stats.hintsIgnored.Add(1)
		return
	}
	now := l.opt.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range h.addrs[:min(len(h.addrs), maxHintAddrs)] {
		at := netip.AddrPortFrom(a.Unmap(), uint16(h.port))
		if !l.isLAN(at.Addr()) || l.own[at.Addr().WithZone("")] && h.port == l.opt.Port {
			l.stats.hintsIgnored.Add(1)
			continue
		}
		if !l.found.add(at, h.id, false, l.own[at.Addr()], now) {
			l.stats.hintsIgnored.Add(1)
		}
	}
}

// resolveStatic looks the configured neighbours up.
func (l *LAN) resolveStatic(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for _, s := range l.opt.Static {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			continue // New has checked
		}
		p, err := strconv.ParseUint(port, 10, 16)
		var addrs []netip.Addr
		if a, perr := netip.ParseAddr(host); perr == nil {
			addrs = []netip.Addr{a}
		} else if err == nil {
			addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
		if err != nil {
			l.log.Debug("static neighbour", "name", s, "err", err)
			continue
		}
		l.mu.Lock()
		for _, a := range addrs[:min(len(addrs), maxHintAddrs)] {
			at := netip.AddrPortFrom(a.Unmap(), uint16(p))
			switch {
			case !l.isLAN(at.Addr()):
				l.log.Warn("static neighbour is not on the LAN: name its prefix in lan.prefixes", "neighbour", s)
			case l.own[at.Addr()] && int(p) == l.opt.Port:
			default:
				l.found.add(at, "", true, true, l.opt.now())
			}
		}
		l.mu.Unlock()
	}
}

// dialDue starts the dials that are due; the caller holds the mutex.
func (l *LAN) dialDue(ctx context.Context, now time.Time) {
	if l.id == "" || len(l.links) >= MaxNeighbours {
		return
	}
	hints := make(map[string]bool, len(l.dialling))
	for at := range l.dialling {
		if k, ok := l.found.by[at]; ok {
			hints[k.hint] = true
		}
	}
	busy := func(k *candidate) bool {
		return l.dialling[k.at] || k.hint != "" && (hints[k.hint] || l.links[k.hint] != nil) || !l.isLAN(k.at.Addr())
	}
	for _, k := range l.found.due(now, dialsAtOnce-len(l.dialling), busy) {
		at := k.at
		l.dialling[at] = true
		l.spawn(func() { l.dialOne(ctx, at) })
	}
}

func (l *LAN) dialOne(ctx context.Context, at netip.AddrPort) {
	entered := func(err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.dialling, at)
		if err != nil {
			l.found.failed(at, l.opt.now())
		}
	}
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	raw, err := l.opt.dial(dctx, at)
	cancel()
	if err != nil {
		entered(err)
		return
	}
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	conn, err := l.opt.Identity.Client(hctx, raw, l.opt.Identity.SwarmClient("", "home.boxd", ALPN))
	cancel()
	if err != nil {
		l.stats.refused.Add(1)
		entered(err)
		return
	}
	if err := l.serve(ctx, conn, true, entered); err != nil && !errors.Is(err, context.Canceled) {
		l.log.Debug("household connection", "to", at.String(), "err", err)
	}
}
