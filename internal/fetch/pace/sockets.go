package pace

import (
	"math"
	"net"
	"sync"
	"syscall"
	"time"
)

// Sockets are our connections over one access line: what the kernel knows of them says how much the line delivers, however
// fast we read, and how long its queue is. It also holds their receive windows to what the pace needs, so that a sender
// never has leave to send much more than that at once. A nil *Sockets watches nothing.
type Sockets struct {
	mu      sync.Mutex // guards the fields below
	set     map[*Socket]struct{}
	windows float64 // bytes that all senders together may have under way to us; 0: not limited
	losses  float64 // share of the last seconds' looks in which packets had come out of order
	gone    int64   // received by those that were removed since the last look
	goneAck int64
}

// Socket is one connection of Sockets. A nil *Socket is none.
type Socket struct {
	of  *Sockets
	raw syscall.RawConn

	// guarded by of.mu
	received, acked int64 // at the last look
	base            time.Duration
	based           time.Time
	got             float64   // bytes since the last look, smoothed
	late            int64     // packets out of order so far
	lossy           time.Time // when there was one last
	clamp, buffer   int       // as set last
	packet          int       // bytes of the longest
	share           float64   // of all windows
	left            int64     // of the present answer; -1: it has no end
	begun           int64     // of the present answer, bytes that came
}

// info is what the kernel says of a connection.
type info struct {
	received, acked int64
	rtt             time.Duration // of what we send, smoothed; 0: not known lately
	rcvRTT          time.Duration // of what is sent to us because of our acknowledgements; 0: not known
	minRTT          time.Duration // the way itself
	late            int64         // packets that came out of order
	packet          int           // bytes of the longest that either end sends
}

// Look is what happened on the sockets since the last look.
type Look struct {
	Received, Acked int64         // bytes that came in, and bytes of ours that arrived
	Queue           time.Duration // the least by which a connection is slower than it was at its best
	Known           bool          // Queue says something
	Sockets         int           // that were asked
	Lossy           bool          // packets are being lost, again and again
}

// NewSockets returns an empty set. Until the first Look no more may be under way than a slow beginning needs.
func NewSockets() *Sockets { return &Sockets{set: map[*Socket]struct{}{}, windows: firstWindows} }

// Add watches a connection until Remove. It returns nil for one that the kernel does not handle.
func (s *Sockets) Add(c net.Conn) *Socket {
	if s == nil {
		return nil
	}
	raw := rawConn(c)
	if raw == nil {
		return nil
	}
	lowWater(raw)
	k := &Socket{of: s, raw: raw, left: -1, share: 0.5}
	if in, ok := readInfo(raw); ok {
		k.received, k.acked, k.late, k.packet = in.received, in.acked, in.late, in.packet
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[k] = struct{}{}
	k.open()
	return k
}

// Remove ends the watch.
func (k *Socket) Remove() {
	if k == nil {
		return
	}
	in, ok := readInfo(k.raw)
	s := k.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.set[k]; there && ok {
		s.gone += in.received - k.received
		s.goneAck += in.acked - k.acked
	}
	delete(s.set, k)
}

func rawConn(c net.Conn) syscall.RawConn {
	for range 8 { // TLS, and whoever else wraps one
		switch t := c.(type) {
		case syscall.Conn:
			if raw, err := t.SyscallConn(); err == nil {
				return raw
			}
			return nil
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// baseAge is how long a connection's best round-trip time counts.
const baseAge = 5 * time.Minute

// Look asks the kernel about all sockets, and holds their windows to what reading at rate needs, and slack: that, and no
// more, can ever wait in the line's queue because of us. A rate of zero leaves the windows alone.
func (s *Sockets) Look(now time.Time, rate float64, slack time.Duration) Look {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Look{Received: s.gone, Acked: s.goneAck, Queue: math.MaxInt64}
	s.gone, s.goneAck = 0, 0
	var sum, way float64
	lossy, lost := false, 0.0
	for k := range s.set {
		in, ok := readInfo(k.raw)
		if !ok {
			continue
		}
		l.Sockets++
		got, acked := in.received-k.received, in.acked-k.acked
		if in.late != k.late {
			k.late, k.lossy, lost = in.late, now, 1
		}
		k.received, k.acked, k.packet = in.received, in.acked, in.packet
		k.got = (k.got + float64(got)) / 2
		l.Received += got
		l.Acked += acked
		if q, ok := k.queue(now, in, got > 64<<10/20, acked > 0); ok {
			l.Queue, l.Known = min(l.Queue, q), true
		}
		sum += k.got
		way += k.got * in.minRTT.Seconds()
		lossy = lossy || now.Sub(k.lossy) < 3*time.Second && k.got > 0
	}
	if !l.Known {
		l.Queue = 0
	}
	s.losses += (lost - s.losses) / lossLooks
	l.Lossy = s.losses > lossyFrom
	s.share(rate, slack, sum, way, lossy)
	return l
}

const (
	lossLooks = 64  // that count
	lossyFrom = 0.2 // of them: a queue that overflows now and then is no lossy line

	guessedRTT   = 0.02
	firstWindows = 64 << 10
)

// bestRTT is the way to the other end, in microseconds as the kernel says it: it says 0 before Linux 4.6, and the most that
// there is before it has measured.
func bestRTT(us uint32) time.Duration {
	if us == 0 || us == math.MaxUint32 {
		return time.Duration(guessedRTT * float64(time.Second))
	}
	return time.Duration(us) * time.Microsecond
}

// share gives each connection the part of the windows that it has used lately, and newcomers half of an equal part. s.mu
// is held.
func (s *Sockets) share(rate float64, slack time.Duration, sum, way float64, lossy bool) {
	s.windows = 0
	if rate > 0 && rate < 1e12 {
		rtt := guessedRTT
		if sum > 0 {
			rtt = way / sum
		}
		if lossy {
			rtt *= 3 // what is sent again takes two round trips more
		}
		s.windows = rate * (rtt + slack.Seconds())
	}
	var weights float64
	for k := range s.set {
		k.share = 0.5 / float64(len(s.set))
		if sum > 0 {
			k.share = max(k.share, k.got/sum)
		}
		weights += k.share
	}
	for k := range s.set {
		k.share /= weights
		k.open()
	}
}

// queue is by how much the connection is slower than at its best. of.mu is held.
func (k *Socket) queue(now time.Time, in info, receives, sends bool) (time.Duration, bool) {
	var rtt time.Duration
	switch {
	case receives && in.rcvRTT > 0:
		rtt = in.rcvRTT
	case sends && in.rtt > 0:
		rtt = in.rtt
	default:
		return 0, false
	}
	if k.base == 0 || rtt < k.base || now.Sub(k.based) > baseAge {
		k.base, k.based = rtt, now
	}
	return rtt - k.base, true
}

const (
	leastWindow = 8 << 10
	leastBuffer = 32 << 10
	mostWindow  = 32 << 20
	firstWindow = 32 << 10 // for the first bytes of an answer
	leastAhead  = 4        // packets that may be under way at least: into less a sender hardly fits one (RFC 9293, section 3.8.6.2)
)

// open holds the window to this connection's share of what all may have under way, and along with an answer's beginning
// and end: the sender may send all that is open at once when it is asked for the next. The kernel's buffer for what we have
// not read yet is held to about as much, so that reading slowly slows the sender within a round trip. of.mu is held.
func (k *Socket) open() {
	if k.of.windows <= 0 {
		if k.clamp > 0 {
			k.clamp, k.buffer = 0, 0
			clampWindow(k.raw, mostWindow)
			boundBuffer(k.raw, mostWindow)
		}
		return
	}
	ahead := float64(leastAhead * k.packet)
	w := min(max(k.of.windows*k.share, leastWindow, ahead), mostWindow)
	buffer := max(int(w), leastBuffer, 2*leastAhead*k.packet)
	if k.left >= 0 {
		w = min(w, max(firstWindow, ahead)+float64(min(2*k.begun, k.left)))
	}
	if math.Abs(float64(buffer-k.buffer)) > 0.1*float64(k.buffer) {
		k.buffer = buffer
		boundBuffer(k.raw, buffer)
	}
	if c := int(w); math.Abs(float64(c-k.clamp)) > 0.05*float64(k.clamp) {
		k.clamp = c
		clampWindow(k.raw, c)
	}
}

// Expect tells that an answer of n bytes is coming.
func (k *Socket) Expect(n int64) {
	if k == nil {
		return
	}
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.left, k.begun = n, 0
	k.open()
}

// Got tells that n bytes of the answer were read.
func (k *Socket) Got(n int) {
	if k == nil {
		return
	}
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.left -= int64(n)
	k.begun += int64(n)
	if k.left < 2*int64(k.clamp) || k.begun < 2*int64(k.clamp) {
		k.open()
	}
}
