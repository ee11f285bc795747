package broker

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"boxd/internal/mqttwire"
)

// door judges the connections of the embedded server within the process. It decides what the auth callout decides for the
// nodes of a cluster, without the keys, signatures and JSON that a callout needs: they were a third of what a connect cost.
type door struct {
	fleet     string
	creds     Creds
	authorize Authorize
	log       *slog.Logger
	ns        *server.Server // set before the server starts
}

// Check is called for each connection, by its own goroutine.
func (d *door) Check(c server.ClientAuthentication) bool {
	if o := c.GetOpts(); o.Username != "" || o.Password != "" {
		return d.own(c, o.Username, o.Password)
	}
	client, err := d.box(c)
	if err != nil {
		host := ""
		if a := c.RemoteAddress(); a != nil {
			host = a.String()
		}
		d.log.Info("mqtt client refused", "host", host, "err", err)
		return false
	}
	acc, err := d.ns.LookupAccount(accountFleet)
	if err != nil {
		d.log.Error("mqtt client refused", "err", err)
		return false
	}
	read, write := subjects(d.fleet, client)
	c.RegisterUser(&server.User{
		Username: client.Box, Account: acc, ConnectionDeadline: client.Until, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: write}, Subscribe: &server.SubjectPermission{Allow: read},
		},
	})
	return true
}

// own lets fleetd itself in.
func (d *door) own(c server.ClientAuthentication, user, password string) bool {
	account, want := accountFleet, d.creds.Fleetd
	switch user {
	case userFleetd:
	case userSys:
		account, want = accountSys, d.creds.Sys
	default:
		return false
	}
	if want == "" || subtle.ConstantTimeCompare([]byte(want), []byte(password)) != 1 {
		return false
	}
	acc, err := d.ns.LookupAccount(account)
	if err != nil {
		d.log.Error("fleetd refused by its own broker", "err", err)
		return false
	}
	c.RegisterUser(&server.User{Username: user, Account: acc})
	return true
}

func (d *door) box(c server.ClientAuthentication) (Client, error) {
	cs := c.GetTLSConnectionState()
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return Client{}, errors.New("no certificate")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := d.authorize(ctx, cs.PeerCertificates)
	if err != nil {
		return Client{}, err
	}
	id, err := d.clientID(c.GetID())
	if err != nil {
		return Client{}, err
	}
	return client, client.check(id)
}

// clientID is what an MQTT client calls itself. The server tells it only where it lists its connections; those that are not
// admitted yet are in its global account, and are few.
func (d *door) clientID(conn uint64) (string, error) {
	list, err := d.ns.Connz(&server.ConnzOptions{CID: conn, Account: globalAccount})
	if err != nil {
		return "", fmt.Errorf("look up connection %d: %w", conn, err)
	}
	if len(list.Conns) != 1 || list.Conns[0].Cid != conn {
		return "", fmt.Errorf("connection %d is gone", conn)
	}
	return list.Conns[0].MQTTClient, nil
}

const globalAccount = "$G"

// check makes sure that the client calls itself what its certificate says.
func (c Client) check(id string) error {
	if !mqttwire.ValidBox(c.Box) || id != c.Box {
		return fmt.Errorf("client id %.60q is not the certificate's name %q", id, c.Box)
	}
	return nil
}

// subjects is what a box may read and write: the topics that are there, and not all under its own name, or it could fill the
// broker's store with retained messages.
func subjects(fleet string, c Client) (read, write []string) {
	own := "boxd.v1." + fleet + "." + c.Box + "."
	read = []string{own + ">"}
	for _, g := range c.Groups {
		if mqttwire.ValidName(g) {
			read = append(read, "boxd.v1."+fleet+".group."+g+".desired")
		}
	}
	return read, []string{own + "state", own + "reported", own + "tele", own + "evt.*", own + "cmd.*.ack"}
}
