package broker_test

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"boxd/internal/fleet/broker"
)

// resumer is a listener with the broker's sessions, at a moment of its own.
type resumer struct {
	ca      *testCA
	revoked atomic.Bool
}

func (r *resumer) start(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	cfg := r.ca.server(t)
	cfg.ClientAuth, cfg.Time = tls.RequestClientCert, func() time.Time { return at }
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if r.revoked.Load() || len(cs.PeerCertificates) != 1 || cs.PeerCertificates[0].Subject.CommonName != "box-a" {
			return errors.New("refused")
		}
		return nil
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", broker.Resumable(cfg, secret, cfg.Time))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Write([]byte{1}) // after the handshake; the ticket goes before it
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func resumes(addr string, cfg *tls.Config) (bool, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", addr, cfg)
	if err != nil {
		return false, err
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1)) // a refusal comes here
	return c.ConnectionState().DidResume, err
}

// A box resumes its session with a broker that was restarted, and at another node, for a day or two; not with one that has
// another secret, and not when it was revoked meanwhile.
func TestSessionsAreResumedAfterARestart(t *testing.T) {
	r := &resumer{ca: newCA(t)}
	begin := time.Now().Truncate(24 * time.Hour) // the first moment of a key
	for what, c := range map[string]struct {
		secret  string
		later   time.Duration
		revoked bool
		resumed bool
	}{
		"after a restart":        {"secret", 0, false, true},
		"a day later":            {"secret", 24 * time.Hour, false, true},
		"two days later":         {"secret", 48 * time.Hour, false, false},
		"another fleet's broker": {"other", 0, false, false},
		"a revoked box":          {"secret", 0, true, false},
	} {
		t.Run(what, func(t *testing.T) {
			cfg := r.ca.box(t, "box-a", "living")
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			if resumed, err := resumes(r.start(t, "secret", begin), cfg); resumed || err != nil {
				t.Fatalf("at first: resumed %t, %v", resumed, err)
			}
			r.revoked.Store(c.revoked)
			defer r.revoked.Store(false)
			resumed, err := resumes(r.start(t, c.secret, begin.Add(c.later)), cfg)
			if (err != nil) != c.revoked || err == nil && resumed != c.resumed {
				t.Errorf("resumed %t, %v", resumed, err)
			}
		})
	}
}
