//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LineConfig is an access line. The zero value is a line without limits.
type LineConfig struct {
	Down, Up int64         // bits a second towards and from the home; 0 is no limit
	Delay    time.Duration // one way
	Queue    int64         // bytes that wait at the bottleneck of each direction before packets are dropped; 0: see below
	Loss     float64       // share of the packets that are lost in each direction, 0 to 1
}

// defaultQueue is how long a full queue is when LineConfig.Queue is 0, as home routers have it.
const defaultQueue = 100 * time.Millisecond

// Line is an access line between two TUN devices, pumped by this process.
type Line struct {
	down, up pipe
	files    []*os.File
	wg       sync.WaitGroup
}

// Counter counts one direction of a line, in IP packets.
type Counter struct {
	Bytes, Packets int64 // delivered to the other end
	Dropped        int64 // packets that the queue or the loss took
}

// Counters are both directions of a line since it was made.
type Counters struct{ Down, Up Counter }

// pipe is one direction. The queue is virtual: free is when the bottleneck will have sent all that it took, so
// the bytes that wait are (free - now) * rate.
type pipe struct {
	rate    atomic.Int64 // bits a second
	queue   atomic.Int64 // bytes
	delay   atomic.Int64 // nanoseconds
	loss    atomic.Int64 // of a million
	bytes   atomic.Int64
	packets atomic.Int64
	dropped atomic.Int64
}

type packet struct {
	due  time.Time
	data []byte
}

// inFlight bounds the packets between a pipe's reader and writer; 4,096 of them are 6 MB, 48 ms at 1 Gbit/s.
const inFlight = 4096

const mtu = 1500

func newLine(wan *NS, wanDev string, home *NS, homeDev string, cfg LineConfig) (*Line, error) {
	l := &Line{}
	l.Set(cfg)
	for _, end := range []struct {
		ns  *NS
		dev string
	}{{wan, wanDev}, {home, homeDev}} {
		var f *os.File
		err := end.ns.Do(func() (err error) {
			f, err = openTUN(end.dev)
			return err
		})
		if err != nil {
			l.close()
			return nil, fmt.Errorf("access line %s: %w", end.dev, err)
		}
		l.files = append(l.files, f)
	}
	l.start(&l.down, l.files[0], l.files[1])
	l.start(&l.up, l.files[1], l.files[0])
	return l, nil
}

// Set changes the line while it is in use; packets that are under way keep their time.
func (l *Line) Set(cfg LineConfig) {
	l.down.set(cfg.Down, cfg)
	l.up.set(cfg.Up, cfg)
}

func (p *pipe) set(rate int64, cfg LineConfig) {
	queue := cfg.Queue
	if queue == 0 {
		queue = max(rate/8*int64(defaultQueue)/int64(time.Second), 20*mtu)
	}
	p.queue.Store(queue)
	p.delay.Store(int64(cfg.Delay))
	p.loss.Store(int64(cfg.Loss * 1e6))
	p.rate.Store(rate)
}

// Counters returns what has crossed the line so far: everything on the wire, headers included.
func (l *Line) Counters() Counters { return Counters{Down: l.down.count(), Up: l.up.count()} }

func (p *pipe) count() Counter {
	return Counter{Bytes: p.bytes.Load(), Packets: p.packets.Load(), Dropped: p.dropped.Load()}
}

// Sub returns what was counted since an earlier reading.
func (c Counters) Sub(old Counters) Counters {
	return Counters{Down: c.Down.sub(old.Down), Up: c.Up.sub(old.Up)}
}

func (c Counter) sub(old Counter) Counter {
	return Counter{Bytes: c.Bytes - old.Bytes, Packets: c.Packets - old.Packets, Dropped: c.Dropped - old.Dropped}
}

func (l *Line) start(p *pipe, from, to *os.File) {
	queue := make(chan packet, inFlight)
	free := sync.Pool{New: func() any { return make([]byte, mtu+64) }}
	l.wg.Add(2)
	go func() {
		defer l.wg.Done()
		defer close(queue)
		p.take(from, queue, &free)
	}()
	go func() {
		defer l.wg.Done()
		for pkt := range queue {
			if wait := time.Until(pkt.due); wait > 0 {
				time.Sleep(wait)
			}
			if _, err := to.Write(pkt.data); err == nil {
				p.bytes.Add(int64(len(pkt.data)))
				p.packets.Add(1)
			} else {
				p.dropped.Add(1) // the device is down or closed: what a line that is cut does
			}
			free.Put(pkt.data[:cap(pkt.data)]) //nolint:staticcheck // a slice header a packet is cheap enough here
		}
	}()
}

// take reads packets until the device is closed and gives each its time of arrival, or drops it.
func (p *pipe) take(from *os.File, queue chan<- packet, pool *sync.Pool) {
	var free time.Time
	for {
		buf := pool.Get().([]byte)
		n, err := from.Read(buf)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			time.Sleep(time.Millisecond) // the device is down for now
			continue
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		rate := p.rate.Load()
		lost := rand.Int64N(1e6) < p.loss.Load()
		waiting := int64(0)
		if rate > 0 {
			waiting = int64(free.Sub(now).Seconds() * float64(rate) / 8)
		}
		if lost || waiting > 0 && waiting+int64(n) > p.queue.Load() {
			p.dropped.Add(1)
			pool.Put(buf) //nolint:staticcheck // as above
			continue
		}
		if rate > 0 {
			free = free.Add(time.Duration(float64(n) * 8 / float64(rate) * float64(time.Second)))
		}
		queue <- packet{due: free.Add(time.Duration(p.delay.Load())), data: buf[:n]}
	}
}

func (l *Line) close() {
	for _, f := range l.files {
		_ = f.Close()
	}
	l.wg.Wait()
}

// openTUN makes a TUN device in the calling thread's namespace. The device must have its name before the file meets
// the runtime's poller, or reads fail for ever.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.flags = unix.IFF_TUN | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("name TUN device %s: %w", name, errno)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}
