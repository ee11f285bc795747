package mgmt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"boxd/internal/mqttwire"
)

// maxPacket is the largest MQTT packet that is read, in bytes after the fixed header: a desired, its signature and its
// topic. paho would read up to 256 MiB into memory because a broker says so.
const maxPacket = mqttwire.MaxDesired + 16<<10

var errPacketTooBig = errors.New("the broker sent a packet over the cap")

// guardConn follows the MQTT framing (3.1.1, section 2.2) of what is read and fails before an oversized packet's body
// reaches paho.
type guardConn struct {
	net.Conn
	guard frameGuard
}

func (c *guardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if gerr := c.guard.feed(p[:n]); gerr != nil {
		_ = c.Conn.Close()
		return 0, gerr
	}
	return n, err
}

// frameGuard is the state machine over the stream: type byte, remaining length of up to four bytes, body.
type frameGuard struct {
	inLength bool
	length   int64
	shift    uint
	body     int64 // bytes of the body still to come
}

func (g *frameGuard) feed(p []byte) error {
	for len(p) > 0 {
		switch {
		case g.body > 0:
			n := min(g.body, int64(len(p)))
			g.body -= n
			p = p[n:]
		case !g.inLength:
			g.inLength, g.length, g.shift = true, 0, 0
			p = p[1:]
		default:
			g.length |= int64(p[0]&0x7f) << g.shift
			g.shift += 7
			more := p[0]&0x80 != 0
			p = p[1:]
			switch {
			case g.length > maxPacket || more && g.shift > 21:
				return fmt.Errorf("%w: %d bytes of at most %d", errPacketTooBig, g.length, maxPacket)
			case !more:
				g.inLength, g.body = false, g.length
			}
		}
	}
	return nil
}

// dial opens the connection of a session. The host is checked against the certificate whatever tls.Config came with.
func (m *Manager) dial(ctx context.Context, broker *url.URL) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", broker.Host)
	if err != nil {
		return nil, err
	}
	if broker.Scheme != "tls" {
		return &guardConn{Conn: raw}, nil
	}
	cfg := m.o.TLS().Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = broker.Hostname()
	}
	cfg.NextProtos = nil
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("tls with %s: %w", broker.Host, err)
	}
	return &guardConn{Conn: conn}, nil
}
