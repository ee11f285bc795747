package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Fleet is a fleetd process with a directory of its own.
type Fleet struct {
	program         string
	dir             string
	https, mqtt, at int // ports; at is the API's
	proc            *process
}

// Published is what `fleetd publish --json` prints.
type Published struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Path   string `json:"path"`
	Length int64  `json:"length"`
}

func startFleet(ctx context.Context, o Options) (*Fleet, error) {
	ports := make([]int, 3)
	if err := freePorts(ports); err != nil {
		return nil, err
	}
	f := &Fleet{program: o.Fleetd, dir: filepath.Join(o.Dir, "fleet"), https: ports[0], mqtt: ports[1], at: ports[2]}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, err
	}
	return f, f.Start(ctx)
}

// Start runs the fleet manager and waits until it is ready.
func (f *Fleet) Start(ctx context.Context) error {
	local := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	p, err := startProcess("fleetd", filepath.Join(filepath.Dir(f.dir), "fleet.log"), f.program, "serve", "--dir", f.dir,
		"--listen", local(f.https), "--mqtt", local(f.mqtt), "--api", local(f.at), "--host", "127.0.0.1")
	if err != nil {
		return err
	}
	f.proc = p
	return p.until(ctx, "getting ready", time.Minute, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.API()+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz: %s", resp.Status)
		}
		return nil
	})
}

// API is the base address of the dashboard and the API.
func (f *Fleet) API() string { return fmt.Sprintf("http://127.0.0.1:%d", f.at) }

// URL is the base address of what boxes talk to.
func (f *Fleet) URL() string { return fmt.Sprintf("https://127.0.0.1:%d", f.https) }

// Broker is the address of the MQTT listener.
func (f *Fleet) Broker() string { return fmt.Sprintf("tls://127.0.0.1:%d", f.mqtt) }

// Firmware is the directory with what a box needs to know of its fleet.
func (f *Fleet) Firmware() string { return filepath.Join(f.dir, "firmware") }

// Dir is where the fleet manager keeps everything.
func (f *Fleet) Dir() string { return f.dir }

// Kill ends the fleet manager as pulling the plug would.
func (f *Fleet) Kill() { f.proc.kill() }

// Stop ends it in an orderly way.
func (f *Fleet) Stop() error { return f.proc.stop() }

// command runs the fleet manager's command line and reads the JSON that it prints.
func (f *Fleet) command(ctx context.Context, into any, args ...string) error {
	args = append(args, "--dir", f.dir, "--api", f.API(), "--json")
	cmd := exec.CommandContext(ctx, f.program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fleetd %s: %w: %s", args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("fleetd %s printed %.200q: %w", args[0], out.Bytes(), err)
	}
	return nil
}

// Publish makes an asset of a file.
func (f *Fleet) Publish(ctx context.Context, file string) (p Published, err error) {
	return p, f.command(ctx, &p, "publish", file)
}

// Campaign asks for these assets on every box of the group "default".
func (f *Fleet) Campaign(ctx context.Context, name string, assets []string) error {
	args := []string{"campaign", "create", "--name", name, "--group", "default"}
	for _, id := range assets {
		args = append(args, "--asset", id)
	}
	var made struct {
		ID string `json:"id"`
	}
	return f.command(ctx, &made, args...)
}

// Proof is the fleet manager's record that an asset has arrived on a box.
type Proof struct {
	Box   string `json:"box"`
	Asset string `json:"asset"`
}

// Proofs lists the records of an asset.
func (f *Fleet) Proofs(ctx context.Context, asset string) (list []Proof, err error) {
	return list, getJSON(ctx, http.DefaultClient, f.API()+"/api/v1/proofs?asset="+asset, f.auth(), &list)
}

// OriginBytes is how many bytes of each asset the origin has sent.
func (f *Fleet) OriginBytes(ctx context.Context) (map[string]int64, error) {
	var sent struct {
		Bytes map[string]int64 `json:"bytes"`
	}
	return sent.Bytes, getJSON(ctx, http.DefaultClient, f.API()+"/api/v1/origin", f.auth(), &sent)
}

// auth is the API's token, which the fleet manager leaves in its directory for programs on the same machine.
func (f *Fleet) auth() http.Header {
	token, err := os.ReadFile(filepath.Join(f.dir, "api-token"))
	if err != nil {
		return nil
	}
	return http.Header{"Authorization": {"Bearer " + string(bytes.TrimSpace(token))}}
}
