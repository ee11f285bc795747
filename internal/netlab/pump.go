//go:build linux

package netlab

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pumpEnv makes the program that links this package the pump of one line: its files 3, 4 and 5 are the shared memory and
// the line's ends in the WAN and at home.
const pumpEnv = "NETLAB_PUMP"

func init() {
	if os.Getenv(pumpEnv) == "" {
		return
	}
	_, s, err := share(os.NewFile(3, "line"))
	if err != nil {
		os.Exit(1)
	}
	runtime.GOMAXPROCS(4) // one for each direction, whatever the runtime does
	go s.down.pump(4, 5)
	s.up.pump(5, 4)
	os.Exit(1)
}

// inFlight bounds the packets in one direction; 16,384 of them are 25 MB, 400 ms at 500 Mbit/s.
const inFlight = 16384

// usualMTU is the longest packet of a line that names no other, mostMTU the longest of any.
const usualMTU, mostMTU = 1500, 9000

type packet struct {
	due time.Time
	n   int
	buf int
}

// belt is the packets that are under way in one direction; they leave in the order in which they came.
type belt struct {
	ring  [inFlight]packet
	first int
	count int
	data  []byte // mostMTU for each
	free  []int  // parts of data; what was used last is used again first
}

func newBelt() *belt {
	b := &belt{data: make([]byte, inFlight*mostMTU)}
	for i := range inFlight {
		b.free = append(b.free, inFlight-1-i)
	}
	return b
}

func (b *belt) buffer(i int) []byte { return b.data[i*mostMTU : (i+1)*mostMTU] }

func (b *belt) push(p packet) {
	b.free = b.free[:len(b.free)-1]
	b.ring[(b.first+b.count)%inFlight] = p
	b.count++
}

func (b *belt) pop() {
	b.free = append(b.free, b.ring[b.first].buf)
	b.first, b.count = (b.first+1)%inFlight, b.count-1
}

// pump moves packets until one of the ends is gone.
func (p *pipe) pump(from, to int) {
	runtime.LockOSThread()
	// Before everybody else, if this may be.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 10}, 0)
	if unix.SetNonblock(from, true) != nil {
		return
	}
	b := newBelt()
	var free time.Time                                           // when the bottleneck has sent all that it took
	fds := []unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	var until unix.Timespec
	for {
		room, read := b.count < inFlight, false
		if room {
			i := b.free[len(b.free)-1]
			n, err := unix.Read(from, b.buffer(i))
			read = err == nil
			if read && p.takes(n, &free) {
				b.push(packet{due: free.Add(time.Duration(p.delay.Load())), n: n, buf: i})
			}
		}
		wait := p.deliver(b, to)
		if read {
			continue
		}
		if wait < 0 {
			wait = time.Second
		}
		until = unix.NsecToTimespec(int64(wait))
		look := fds
		if !room {
			look = nil
		}
		if _, err := unix.Ppoll(look, &until, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if look != nil && look[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
			return
		}
	}
}

// takes says whether a packet of n bytes enters the queue, and then moves free behind it.
func (p *pipe) takes(n int, free *time.Time) bool {
	now := time.Now()
	if free.Before(now) {
		*free = now
	}
	rate := p.rate.Load()
	waiting := int64(0)
	if rate > 0 {
		waiting = int64(free.Sub(now).Seconds() * float64(rate) / 8)
	}
	if rand.Int64N(1e6) < p.loss.Load() || waiting > 0 && waiting+int64(n) > p.queue.Load() {
		p.dropped.Add(1)
		return false
	}
	if rate > 0 {
		*free = free.Add(time.Duration(float64(n) * 8 / float64(rate) * float64(time.Second)))
		p.free.Store(free.UnixNano())
	}
	return true
}

// deliver writes what is due, and returns how long the next packet has to wait; it is negative if there is none.
func (p *pipe) deliver(b *belt, to int) time.Duration {
	for b.count > 0 {
		pkt := b.ring[b.first]
		wait := time.Until(pkt.due)
		if wait > 0 {
			return wait
		}
		if wait < -time.Millisecond {
			p.late.Add(1)
		}
		if _, err := unix.Write(to, b.buffer(pkt.buf)[:pkt.n]); err == nil {
			p.bytes.Add(int64(pkt.n))
			p.packets.Add(1)
		} else {
			p.dropped.Add(1) // the device is down or gone: what a line that is cut does
		}
		b.pop()
	}
	return -1
}
