//go:build linux

package netlab

import (
	"context"
	"fmt"
	"os"
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
	MTU      int           // bytes of the longest packet, there and in the home; 0: 1,500; a long one costs the pump no more than a short one
}

// defaultQueue is how long a full queue is when LineConfig.Queue is 0, as home routers have it.
const defaultQueue = 100 * time.Millisecond

// Line is an access line between two TUN devices. A process of its own moves the packets, before everybody else on the
// machine's processors: a real line is not late because the boxes behind it are busy.
type Line struct {
	*shared
	memory []byte
	pump   *Cmd
}

// shared is the memory that the line's maker and its pump both see.
type shared struct{ down, up pipe }

// Counter counts one direction of a line, in IP packets.
type Counter struct {
	Bytes, Packets int64 // delivered to the other end
	Dropped        int64 // packets that the queue or the loss took
	Late           int64 // packets that were delivered over 1 ms late, because this machine was busy
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
	late    atomic.Int64
	free    atomic.Int64 // when the queue will be empty, in nanoseconds since 1970
}

func newLine(wan *NS, wanDev string, home *NS, homeDev string, cfg LineConfig) (*Line, error) {
	fd, err := unix.MemfdCreate("line", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("access line: %w", err)
	}
	mem := os.NewFile(uintptr(fd), "line")
	defer mem.Close()
	if err := mem.Truncate(int64(unsafe.Sizeof(shared{}))); err != nil {
		return nil, fmt.Errorf("access line: %w", err)
	}
	l := &Line{}
	if l.memory, l.shared, err = share(mem); err != nil {
		return nil, err
	}
	l.Set(cfg)
	files := []*os.File{mem}
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
		defer f.Close()
		files = append(files, f)
	}
	exe, err := os.Executable()
	if err == nil {
		c := wan.Command(context.Background(), exe)
		c.Env, c.ExtraFiles, c.Stderr = append(os.Environ(), pumpEnv+"=1"), files, os.Stderr
		err = c.Start()
		l.pump = c
	}
	if err != nil {
		l.pump = nil
		l.close()
		return nil, fmt.Errorf("access line: start its pump: %w", err)
	}
	return l, nil
}

// share maps what a line's maker and its pump both see.
func share(f *os.File) ([]byte, *shared, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(shared{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("access line: share memory: %w", err)
	}
	return b, (*shared)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

// Set changes the line while it is in use; packets that are under way keep their time.
func (l *Line) Set(cfg LineConfig) {
	l.down.set(cfg.Down, cfg)
	l.up.set(cfg.Up, cfg)
}

func (p *pipe) set(rate int64, cfg LineConfig) {
	queue := cfg.Queue
	if queue == 0 {
		queue = max(rate/8*int64(defaultQueue)/int64(time.Second), 20*usualMTU)
	}
	p.queue.Store(queue)
	p.delay.Store(int64(cfg.Delay))
	p.loss.Store(int64(cfg.Loss * 1e6))
	p.rate.Store(rate)
}

// Waits returns how long a packet would wait now at the bottleneck of each direction.
func (l *Line) Waits() (down, up time.Duration) {
	now := time.Now().UnixNano()
	return time.Duration(max(0, l.down.free.Load()-now)), time.Duration(max(0, l.up.free.Load()-now))
}

// Counters returns what has crossed the line so far: everything on the wire, headers included.
func (l *Line) Counters() Counters { return Counters{Down: l.down.count(), Up: l.up.count()} }

func (p *pipe) count() Counter {
	return Counter{Bytes: p.bytes.Load(), Packets: p.packets.Load(), Dropped: p.dropped.Load(), Late: p.late.Load()}
}

// Sub returns what was counted since an earlier reading.
func (c Counters) Sub(old Counters) Counters {
	return Counters{Down: c.Down.sub(old.Down), Up: c.Up.sub(old.Up)}
}

func (c Counter) sub(old Counter) Counter {
	return Counter{
		Bytes: c.Bytes - old.Bytes, Packets: c.Packets - old.Packets, Dropped: c.Dropped - old.Dropped,
		Late: c.Late - old.Late,
	}
}

// close ends the pump; the devices go with it. The counters stay readable as long as the process lives.
func (l *Line) close() {
	if l.pump == nil {
		return
	}
	_ = l.pump.Process.Kill() // it may be dead already
	_ = l.pump.Wait()         // of the signal
	l.pump = nil
}

// openTUN makes a TUN device in the calling thread's namespace; the pump reads it.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
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
