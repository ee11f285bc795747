package identity_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"boxd/internal/identity"
	"boxd/internal/identity/identitytest"
	"boxd/internal/identity/pki"
)

// cpu reports processor time for each operation, user and system, of both ends: wall time says little on a busy machine.
func cpu(b *testing.B) (stop func()) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64((used()-start).Microseconds())/float64(b.N), "cpu-µs/op") }
}

// benchPair is a listening box and one that dials, without the mux.
func benchPair(b *testing.B) (server, client *identity.Identity, addr string) {
	b.Helper()
	f := identitytest.New(b)
	server, client = f.Box("box-a", "g"), f.Box("box-b", "g")
	l, err := tls.Listen("tcp", "127.0.0.1:0", server.SwarmServer())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return server, client, l.Addr().String()
}

func benchHandshake(b *testing.B, boxID string, change func(*tls.Config)) {
	_, client, addr := benchPair(b)
	cfg := client.SwarmClient(boxID, "x.boxd", identity.ALPNSwarm)
	if change != nil {
		change(cfg)
	}
	resumed := 0
	b.ReportAllocs()
	stop := cpu(b)
	for b.Loop() {
		c, err := client.Dial(b.Context(), addr, cfg)
		if err != nil {
			b.Fatal(err)
		}
		if err := ping(c); err != nil {
			b.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			resumed++
		}
		c.Close()
	}
	stop()
	b.ReportMetric(float64(resumed)/float64(b.N), "resumed")
}

// Both ends together: mutual TLS, both certificates checked.
func BenchmarkHandshakeFull(b *testing.B)    { benchHandshake(b, "", nil) }
func BenchmarkHandshakeResumed(b *testing.B) { benchHandshake(b, "box-a", nil) }

// What the default key exchanges, with post-quantum hybrids, would cost.
func BenchmarkHandshakeHybrid(b *testing.B) {
	f := identitytest.New(b)
	server, client := f.Box("box-a", "g"), f.Box("box-b", "g")
	sc, cc := server.SwarmServer(), client.SwarmClient("", "x.boxd", identity.ALPNSwarm)
	sc.CurvePreferences, cc.CurvePreferences = nil, nil
	benchPipe(b, sc, cc)
}

func BenchmarkHandshakeX25519(b *testing.B) {
	f := identitytest.New(b)
	server, client := f.Box("box-a", "g"), f.Box("box-b", "g")
	benchPipe(b, server.SwarmServer(), client.SwarmClient("", "x.boxd", identity.ALPNSwarm))
}

func benchPipe(b *testing.B, sc, cc *tls.Config) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { t := tls.Server(c, sc); io.Copy(t, t); c.Close() }()
		}
	}()
	stop := cpu(b)
	defer stop()
	for b.Loop() {
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c := tls.Client(raw, cc)
		if err := ping(c); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkStream is bytes through one connection, both ends together, with the cipher that Go picks here.
func BenchmarkStream(b *testing.B) {
	f := identitytest.New(b)
	server, client := f.Box("box-a", "g"), f.Box("box-b", "g")
	a, c := pair(b)
	s := tls.Server(a, server.SwarmServer())
	t := tls.Client(c, client.SwarmClient("", "x.boxd", identity.ALPNSwarm))
	done := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, s); done <- err }()
	if err := t.HandshakeContext(b.Context()); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	stop := cpu(b)
	for b.Loop() {
		if _, err := t.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	stop()
	b.Logf("cipher %s", tls.CipherSuiteName(t.ConnectionState().CipherSuite))
	t.Close()
	<-done
}

// The two ciphers of TLS 1.3 as this processor runs them, 16 KiB records: Go's TLS takes AES where the processor has
// instructions for it and ChaCha20 elsewhere, which cannot be configured and need not be.
func BenchmarkAES128GCM(b *testing.B) {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		b.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	benchSeal(b, aead, err)
}

func BenchmarkChaCha20Poly1305(b *testing.B) {
	aead, err := chacha20poly1305.New(make([]byte, 32))
	benchSeal(b, aead, err)
}

func benchSeal(b *testing.B, aead cipher.AEAD, err error) {
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 16<<10, 17<<10)
	nonce := make([]byte, aead.NonceSize())
	b.SetBytes(int64(len(buf)))
	stop := cpu(b)
	defer stop()
	for b.Loop() {
		aead.Seal(buf[:0], nonce, buf, nil)
	}
}

// Checking the chain of a peer, first time and again.
func BenchmarkChain(b *testing.B) {
	f := identitytest.New(b)
	me, peer := f.Box("box-a", "g"), f.Box("box-b", "g")
	cert, err := peer.SwarmServer().GetCertificate(nil)
	if err != nil {
		b.Fatal(err)
	}
	var certs []*x509.Certificate
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			b.Fatal(err)
		}
		certs = append(certs, c)
	}
	data, err := os.ReadFile(f.CAFile)
	if err != nil {
		b.Fatal(err)
	}
	block, _ := pem.Decode(data)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("signatures", func(b *testing.B) {
		stop := cpu(b)
		defer stop()
		for b.Loop() {
			if _, err := pki.BuildChain(root, certs, pki.Boxes); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("remembered", func(b *testing.B) {
		verify := me.SwarmServer().VerifyConnection
		stop := cpu(b)
		defer stop()
		for b.Loop() {
			if err := verify(tls.ConnectionState{PeerCertificates: certs}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
