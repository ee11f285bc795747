package mgmt

import (
	"crypto/tls"
	"io"
	"testing"
	"time"
)

// onceCache gives each session once, as a box's cache does.
type onceCache struct {
	tls.ClientSessionCache
}

func (c onceCache) Get(key string) (*tls.ClientSessionState, bool) {
	cs, ok := c.ClientSessionCache.Get(key)
	if ok {
		c.Put(key, nil)
	}
	return cs, ok
}

// A box comes back to mosquitto with a session that it had: whether mosquitto resumes it or not, the box gets in.
func TestMosquittoTakesABoxThatResumes(t *testing.T) {
	m := startMosquitto(t)
	cfg := m.pki.client(t, "box-a")
	cfg.ClientSessionCache, cfg.ServerName = onceCache{tls.NewLRUClientSessionCache(4)}, "127.0.0.1"
	cfg.MinVersion = tls.VersionTLS13
	refused := 0
	for range 6 {
		conn, err := tls.Dial("tcp", m.addr, cfg)
		if err != nil {
			t.Log(err)
			refused++
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		hello := append([]byte{0x10, 17, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 5}, "box-a"...)
		var ack [4]byte // and the session's ticket before it
		if _, err = conn.Write(hello); err == nil {
			_, err = io.ReadFull(conn, ack[:])
		}
		t.Logf("resumed %t, CONNACK %x, %v", conn.ConnectionState().DidResume, ack, err)
		if err != nil || ack != [4]byte{0x20, 2, 0, 0} {
			refused++
		}
		_ = conn.Close()
	}
	if refused > 0 {
		t.Errorf("refused %d times", refused)
	}
}
