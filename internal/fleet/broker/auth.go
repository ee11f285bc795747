package broker

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"boxd/internal/mqttwire"
)

// Client is a box that may connect.
type Client struct {
	Box    string
	Groups []string
	Until  time.Time // the session ends then; zero for never
}

// Authorize judges the certificates of an MQTT client, leaf first: nobody else may have. Whether the client has the leaf's
// key TLS has made sure of. An error refuses the connection.
type Authorize func(ctx context.Context, chain []*x509.Certificate) (Client, error)

// Auth answers the auth callouts of a cluster's nodes. Several fleetd share the work.
type Auth struct {
	Fleet     string
	Creds     Creds
	Authorize Authorize
	Log       *slog.Logger

	issuer nkeys.KeyPair
}

// maxCallouts bounds the callouts that are worked on at the same time.
const maxCallouts = 8

// Run answers until ctx ends. ready is called once it listens.
func (a *Auth) Run(ctx context.Context, at Endpoint, ready func()) error {
	kp, err := nkeys.FromSeed([]byte(a.Creds.Issuer))
	if err != nil {
		return fmt.Errorf("auth callout key: %w", err)
	}
	a.issuer = kp
	nc, err := at.connect(userAuth, a.Creds.Auth, "fleetd-auth")
	if err != nil {
		return fmt.Errorf("auth callout: %w", err)
	}
	defer nc.Close()
	work := make(chan *nats.Msg, 1024)
	sub, err := nc.ChanQueueSubscribe("$SYS.REQ.USER.AUTH", "fleetd", work)
	if err != nil {
		return fmt.Errorf("auth callout: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.Flush(); err != nil {
		return fmt.Errorf("auth callout: %w", err)
	}
	ready()
	done := make(chan struct{}, maxCallouts)
	for range maxCallouts {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case <-ctx.Done():
					return
				case m := <-work:
					a.answer(ctx, m)
				}
			}
		}()
	}
	for range maxCallouts {
		<-done
	}
	return nil
}

func (a *Auth) answer(ctx context.Context, m *nats.Msg) {
	req, err := jwt.DecodeAuthorizationRequestClaims(string(m.Data))
	if err != nil {
		a.Log.Warn("auth callout not understood", "err", err)
		return
	}
	resp := jwt.NewAuthorizationResponseClaims(req.UserNkey)
	resp.Audience = req.Server.ID
	user, err := a.user(ctx, req)
	if err != nil {
		a.Log.Info("mqtt client refused", "client", clip(req.ClientInformation.MQTT), "host", req.ClientInformation.Host,
			"err", err)
		resp.Error = "not authorised"
	} else {
		resp.Jwt = user
	}
	token, err := resp.Encode(a.issuer)
	if err != nil {
		a.Log.Error("auth callout not signed", "err", err)
		return
	}
	if err := m.Respond([]byte(token)); err != nil {
		a.Log.Warn("auth callout not answered", "err", err)
	}
}

func (a *Auth) user(ctx context.Context, req *jwt.AuthorizationRequestClaims) (string, error) {
	chain, err := presented(req.TLS)
	if err != nil {
		return "", err
	}
	c, err := a.Authorize(ctx, chain)
	if err != nil {
		return "", err
	}
	if err := c.check(req.ClientInformation.MQTT); err != nil {
		return "", err
	}
	uc := jwt.NewUserClaims(req.UserNkey)
	uc.Name, uc.Audience = c.Box, accountFleet
	uc.AllowedConnectionTypes.Add(jwt.ConnectionTypeMqtt)
	if !c.Until.IsZero() {
		uc.Expires = c.Until.Unix()
	}
	read, write := subjects(a.Fleet, c)
	uc.Pub.Allow.Add(write...)
	uc.Sub.Allow.Add(read...)
	uc.NatsLimits.Subs, uc.NatsLimits.Payload = maxSubs, mqttwire.MaxDesired
	token, err := uc.Encode(a.issuer)
	if err != nil {
		return "", fmt.Errorf("sign the callout: %w", err)
	}
	return token, nil
}

// presented reads the certificates that the client showed, leaf first. A broker that has verified them sends the chain.
func presented(t *jwt.ClientTLS) ([]*x509.Certificate, error) {
	var texts []string
	switch {
	case t == nil:
	case len(t.VerifiedChains) > 0:
		texts = t.VerifiedChains[0]
	default:
		texts = t.Certs
	}
	if len(texts) == 0 {
		return nil, errors.New("no certificate")
	}
	var chain []*x509.Certificate
	for _, text := range texts {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, errors.New("bad certificate in the callout")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("bad certificate in the callout: %w", err)
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

func clip(s string) string { return s[:min(len(s), 60)] }
