package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"boxd/internal/fleet/broker"
	"boxd/internal/fleet/ca"
	"boxd/internal/fleet/operate"
)

// Run serves until ctx ends or a part fails.
func (s *Server) Run(ctx context.Context) error {
	if err := cleanStaging(s.o.Dir, s.o.DB != ""); err != nil {
		return err
	}
	var token string
	err := oneAtATime(s.o.Dir, func() (err error) {
		token, err = s.apiToken()
		return err
	})
	if err != nil {
		return err
	}
	if err := s.fleet.Start(ctx); err != nil {
		return fmt.Errorf("load fleet: %w", err)
	}
	if err := s.fleet.Learn(ctx); err != nil {
		return fmt.Errorf("load what was published: %w", err)
	}
	s.ready.wait("broker", "auth", "messages", "firmware")
	g, ctx := errgroup.WithContext(ctx)
	up, auth := make(chan struct{}), make(chan struct{})
	if s.nats != nil {
		g.Go(func() error { return s.nats.Run(ctx, func() { s.ready.done("broker"); close(up) }) })
	} else {
		s.ready.done("broker")
		close(up)
	}
	if s.nats != nil { // it asks this process itself
		s.ready.done("auth")
		auth = up
	} else {
		g.Go(func() error { return s.after(ctx, up, func() error { return s.runAuth(ctx, auth) }) })
	}
	g.Go(func() error { return s.after(ctx, auth, func() error { return s.runBus(ctx) }) })
	g.Go(func() error { return s.fleet.Run(ctx) })
	g.Go(func() error { return s.fleet.KeepIndex(ctx) })
	g.Go(func() error { return s.ca.Run(ctx) })
	g.Go(func() error { return s.repo.Run(ctx) })
	g.Go(func() error { return s.tracker.Run(ctx) })
	g.Go(func() error { return s.view.Run(ctx) })
	if s.regions != nil {
		g.Go(func() error { return s.regions.Run(ctx) })
	}
	g.Go(func() error { return broker.TrimMemory(ctx) })
	g.Go(func() error {
		return s.serve(ctx, tls.NewListener(s.listen, s.ca.ServerTLS(s.set.Hosts...)), s.boxes(), 2*time.Minute)
	})
	g.Go(func() error { return s.serve(ctx, s.apiL, s.api(token), 0) })
	if err := oneAtATime(s.o.Dir, func() error { return s.writeFirmware(ctx) }); err != nil {
		s.log.Error("firmware bundle not written", "err", err)
	} else {
		s.ready.done("firmware")
	}
	s.log.Info(
		"fleetd serves",
		"fleet",
		s.ca.Fleet(),
		"boxes",
		s.listen.Addr().String(),
		"mqtt",
		s.mqtt,
		"api",
		s.apiL.Addr().String(),
	)
	return g.Wait()
}

func (s *Server) after(ctx context.Context, first <-chan struct{}, run func() error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-first:
		return run()
	}
}

func (s *Server) runAuth(ctx context.Context, listens chan struct{}) error {
	a := &broker.Auth{Fleet: s.ca.Fleet(), Creds: s.creds, Authorize: s.authorize, Log: s.log}
	return a.Run(ctx, s.clusterEndpoint(), func() { s.ready.done("auth"); close(listens) })
}

func (s *Server) runBus(ctx context.Context) error {
	err := s.bus.Run(ctx, func() { s.ready.done("messages") })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// APIAddr is where the API listens.
func (s *Server) APIAddr() string { return s.apiL.Addr().String() }

// apiToken reads or makes the administrator's token.
func (s *Server) apiToken() (string, error) {
	path := filepath.Join(s.o.Dir, fileToken)
	data, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(data))) >= 32 {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read API token: %w", err)
	}
	var b [24]byte
	_, _ = rand.Read(b[:])
	token := hex.EncodeToString(b[:])
	return token, writeFile(path, []byte(token+"\n"), 0o600)
}

const firmwareConfig = `# What a box of this fleet needs to know. Copy ca.pem, root.json and token beside it.
[fleet]
url = %q
ca = "/etc/boxd/ca.pem"
root = "/etc/boxd/root.json"
token_file = "/etc/boxd/token"
brokers = [%s]
`

// writeFirmware writes the bundle that makes a box a member of this fleet.
func (s *Server) writeFirmware(ctx context.Context) error {
	dir := filepath.Join(s.o.Dir, dirFirmware)
	host := s.set.Hosts[0]
	root, err := s.repo.Root()
	if err != nil {
		return err
	}
	brokers := s.o.BrokerURLs
	if len(brokers) == 0 {
		for _, addr := range strings.Split(s.mqtt, ",") {
			h := host
			if s.nats == nil { // a cluster's nodes have names of their own
				h, _, _ = net.SplitHostPort(addr)
			}
			brokers = append(brokers, "tls://"+net.JoinHostPort(h, port(addr)))
		}
	}
	quoted := make([]string, len(brokers))
	for i, b := range brokers {
		quoted[i] = fmt.Sprintf("%q", b)
	}
	conf := fmt.Sprintf(
		firmwareConfig,
		"https://"+net.JoinHostPort(host, port(s.listen.Addr().String())),
		strings.Join(quoted, ", "),
	)
	for name, data := range map[string][]byte{"ca.pem": s.ca.RootPEM(), "root.json": root, "boxd.toml": []byte(conf)} {
		if err := writeFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	tokens, err := s.ca.Tokens(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "token")
	if _, err := os.Stat(path); err == nil && len(tokens) > 0 {
		return nil
	}
	secret, _, err := s.fleet.CreateToken(ctx, "init", ca.TokenSpec{
		Group: operate.DefaultGroup, MaxUses: 1000, Life: 30 * 24 * time.Hour,
	})
	if err != nil {
		return err
	}
	return writeFile(path, []byte(secret+"\n"), 0o600)
}
