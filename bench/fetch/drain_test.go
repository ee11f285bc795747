//go:build bench

package fetch

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/engine"
)

// drain is the least leecher there can be: it asks a seeder for every block, and throws them away. It retries until the
// seeder listens, ends after a while, as some seeders are slow, and prints how many bytes came in how many seconds.
func drain() error {
	torrent, err := os.ReadFile(os.Getenv("TORRENT"))
	if err != nil {
		return err
	}
	info, err := asset.ParseTorrent(torrent)
	if err != nil {
		return err
	}
	var nc net.Conn
	for try := 0; ; try++ {
		if nc, err = net.Dial("tcp", host+":"+os.Getenv("PORT")); err == nil {
			break
		}
		if try > 100 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	if os.Getenv("TLS") != "" {
		var o engine.Options
		if err := secure(&o, "box-drain"+os.Getenv("N")); err != nil {
			return err
		}
		nc = tls.Client(nc, o.ClientTLS("", engine.ServerName(info.ID)))
	}
	return drainFrom(nc, info)
}

// pipeline is how many bytes are asked for at one time.
const pipeline = 4 << 20

const (
	longest = 20 * time.Second
	greeted = 1500 * time.Millisecond // aria2 bans who sends anything before it has looked at the handshake for a second time
)

func drainFrom(nc net.Conn, info *asset.Info) error {
	block := int64(max(number("BLOCK"), 16<<10))
	hello := append([]byte("\x13BitTorrent protocol\x00\x00\x00\x00\x00\x00\x00\x00"), info.ID[:]...)
	hello = fmt.Appendf(hello, "-DR0001-%012d", os.Getpid())
	if _, err := nc.Write(hello); err != nil {
		return err
	}
	r := bufio.NewReaderSize(&slowReader{nc, float64(number("RATE")), time.Now()}, 256<<10)
	if _, err := io.CopyN(io.Discard, r, 68); err != nil {
		return err
	}
	time.Sleep(greeted)
	if _, err := nc.Write([]byte{0, 0, 0, 1, 2}); err != nil { // interested
		return err
	}
	began := time.Now()
	var asked, got int64
	open := false
	var head [4]byte
	for got < info.Length && time.Since(began) < longest {
		if open && asked-got < pipeline/2 {
			var req []byte
			for ; asked < info.Length && asked-got < pipeline; asked = min(asked+block, info.Length) {
				n := min(block, info.Length-asked)
				req = append(req, 0, 0, 0, 13, 6)
				req = binary.BigEndian.AppendUint32(req, uint32(asked/info.PieceLength))
				req = binary.BigEndian.AppendUint32(req, uint32(asked%info.PieceLength))
				req = binary.BigEndian.AppendUint32(req, uint32(n))
			}
			if _, err := nc.Write(req); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n == 0 {
			continue
		}
		kind, err := r.ReadByte()
		if err != nil {
			return err
		}
		switch kind {
		case 0:
			open, asked = false, got // what was asked for is forgotten
		case 1:
			open = true
		case 7:
			got += int64(n - 9)
		}
		if _, err := r.Discard(n - 1); err != nil {
			return err
		}
	}
	fmt.Println(got, time.Since(began).Seconds())
	return nil
}

// slowReader reads at so many bytes a second; 0: as fast as it can.
type slowReader struct {
	r    io.Reader
	rate float64
	due  time.Time
}

func (s *slowReader) Read(p []byte) (int, error) {
	if s.rate <= 0 {
		return s.r.Read(p)
	}
	if now := time.Now(); s.due.Before(now.Add(-5 * time.Millisecond)) {
		s.due = now
	}
	time.Sleep(time.Until(s.due))
	n, err := s.r.Read(p[:min(len(p), 3*1448)])
	s.due = s.due.Add(time.Duration(float64(n) / s.rate * float64(time.Second)))
	return n, err
}
