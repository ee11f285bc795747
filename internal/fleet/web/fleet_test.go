package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fleet/fleettest"
	"boxd/internal/fleet/operate"
	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/server"
	"boxd/internal/mqttwire"
)

// fleet is a whole fleetd with boxes that only speak.
type fleet struct {
	t     *testing.T
	url   string
	token string
	reg   *registry.Registry
	seq   map[string]uint64
	dir   string
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	dir := t.TempDir()
	s, err := server.Open(t.Context(), server.Options{
		Dir: dir, Fleet: "harbour", Listen: "127.0.0.1:0", MQTT: fleettest.FreeAddr(t), API: "127.0.0.1:0",
		Hosts: []string{"127.0.0.1"},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("fleetd: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close fleetd: %v", err)
		}
	})
	f := &fleet{t: t, url: "http://" + s.APIAddr(), seq: map[string]uint64{}, dir: dir}
	f.eventually("fleetd is ready", func() bool { status, _ := f.call("GET", "/readyz", "", nil); return status == http.StatusOK })
	data, err := os.ReadFile(filepath.Join(dir, "api-token"))
	must(t, err)
	f.token = strings.TrimSpace(string(data))
	f.reg, err = registry.Open(t.Context(), registry.Options{Path: filepath.Join(dir, "fleet.db")})
	must(t, err)
	t.Cleanup(func() { _ = f.reg.Close() })
	return f
}

func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			f.t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

// call asks the API; headers are "Name: value" lines.
func (f *fleet) call(method, path, body string, headers map[string]string) (int, []byte) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	must(f.t, err)
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(f.t, err)
	return resp.StatusCode, data
}

// admin calls with the administrator's token and decodes the answer.
func (f *fleet) admin(method, path string, in, out any) {
	f.t.Helper()
	body := ""
	if in != nil {
		data, err := json.Marshal(in)
		must(f.t, err)
		body = string(data)
	}
	status, data := f.call(method, path, body, map[string]string{"Authorization": "Bearer " + f.token, "Content-Type": "application/json"})
	if status != http.StatusOK {
		f.t.Fatalf("%s %s: %d %s", method, path, status, data)
	}
	if out != nil {
		must(f.t, json.Unmarshal(data, out))
	}
}

func (f *fleet) publish(name, version string, size int) asset.ID {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), strings.ToLower(strings.ReplaceAll(name, " ", "-"))+".bin")
	must(f.t, os.WriteFile(path, bytes.Repeat([]byte(name), size/len(name)), 0o600))
	var a struct {
		ID asset.ID `json:"id"`
	}
	f.admin("POST", "/api/v1/assets", map[string]string{"path": path, "name": name, "version": version}, &a)
	return a.ID
}

func (f *fleet) campaign(fields map[string]any, ids ...asset.ID) string {
	f.t.Helper()
	fields["v"], fields["id"], fields["assets"], fields["asset_ids"] = 1, "", nil, ids
	var c struct {
		ID string `json:"id"`
	}
	f.admin("POST", "/api/v1/campaigns", fields, &c)
	return c.ID
}

// began moves a campaign's start into the past, as if it had run for a while.
func (f *fleet) began(id string, ago time.Duration) {
	f.t.Helper()
	must(f.t, registry.EditDoc(f.t.Context(), f.reg, "campaigns", id, func(c *operate.Campaign) error {
		c.Created = time.Now().Add(-ago).UTC()
		return nil
	}))
}

func boxID(n int) string { return fmt.Sprintf("box-%05d", n) }

func (f *fleet) message(box, tail string, at time.Time, payload mqttwire.Checker) mqttwire.Message {
	f.t.Helper()
	topic, err := mqttwire.ParseTopic(mqttwire.BoxTopic("harbour", box, tail))
	must(f.t, err)
	data, err := mqttwire.Encode(mqttwire.MaxPayload, payload)
	must(f.t, err)
	return mqttwire.Message{Topic: topic, Payload: data, Received: at}
}

func (f *fleet) envelope(box string, at time.Time) mqttwire.Envelope {
	f.seq[box]++
	return mqttwire.Envelope{V: mqttwire.Version, Epoch: "e" + box, SID: 1, Seq: f.seq[box], TS: at}
}

// report is a box's report, as change makes it.
func (f *fleet) report(box string, change func(*mqttwire.Reported)) mqttwire.Message {
	now := time.Now()
	r := &mqttwire.Reported{
		Envelope: f.envelope(box, now), Software: "1.4.2", ClockTrusted: true, CatalogVersion: 7,
		CertExpires: now.Add(60 * 24 * time.Hour),
		Disk:        mqttwire.Disk{Used: 9 << 30, Quota: 20 << 30, Free: 60 << 30, Reserve: 1 << 30},
	}
	if change != nil {
		change(r)
	}
	return f.message(box, "reported", now, r)
}

func (f *fleet) arrival(box string, id asset.ID, size int64, at time.Time, from mqttwire.Traffic) mqttwire.Message {
	e := f.envelope(box, at)
	return f.message(box, mqttwire.EventTail(e.Seq), at, &mqttwire.Event{
		Envelope: e, Evt: e.Seq, Kind: mqttwire.EventArrived, Asset: id, Name: "asset", Publisher: "operator", Size: size,
		From: from, At: at, Trusted: true,
	})
}

func (f *fleet) ingest(msgs ...mqttwire.Message) {
	f.t.Helper()
	for len(msgs) > 0 {
		n := min(len(msgs), 500)
		out, err := f.reg.Ingest(f.t.Context(), msgs[:n])
		must(f.t, err)
		if out.Bad > 0 {
			f.t.Fatalf("%d messages made no sense", out.Bad)
		}
		msgs = msgs[n:]
	}
}
