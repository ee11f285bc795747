package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	apiAddress  = "127.0.0.1:8088"
	firmwareTag = "application/vnd.boxd.firmware"
)

// fleet is the fleet manager on the bridge's address.
type fleet struct {
	program, dir string
	cmd          *exec.Cmd
}

func startFleet(ctx context.Context, program, dir string) (*fleet, error) {
	f := &fleet{program: program, dir: dir}
	log, err := os.Create(filepath.Join(filepath.Dir(dir), "fleetd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	f.cmd = exec.Command(program, "serve", "--dir", dir, "--listen", hostAddress+":8443", "--mqtt", hostAddress+":8883",
		"--api", apiAddress, "--host", hostAddress)
	f.cmd.Stdout, f.cmd.Stderr = log, log
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		resp, err := http.Get("http://" + apiAddress + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return f, nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("fleetd is not ready: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (f *fleet) stop() {
	_ = f.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = f.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = f.cmd.Process.Kill()
		<-done
	}
}

// command runs fleetd's command line and reads the JSON it prints.
func (f *fleet) command(ctx context.Context, into any, args ...string) error {
	args = append(args, "--dir", f.dir, "--api", "http://"+apiAddress, "--json")
	cmd := exec.CommandContext(ctx, f.program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fleetd %s: %w: %s", args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("fleetd %s printed %.200q: %w", args[0], out.Bytes(), err)
	}
	return nil
}

// publish makes an asset of a file and a campaign of its own for it; kind "" is media.
func (f *fleet) publish(ctx context.Context, name, file, kind string) (id string, err error) {
	var p struct {
		ID string `json:"id"`
	}
	args := []string{"publish", file}
	if kind != "" {
		args = append(args, "--type", kind)
	}
	if err := f.command(ctx, &p, args...); err != nil {
		return "", err
	}
	return p.ID, f.command(ctx, nil, "campaign", "create", "--name", name, "--group", "default", "--asset", p.ID)
}

func (f *fleet) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+apiAddress+path, nil)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(f.dir, "api-token"))
	if err == nil {
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// proofs is how many boxes have proved to the fleet manager that they hold an asset.
func (f *fleet) proofs(ctx context.Context, asset string) (int, error) {
	var list []struct {
		Box string `json:"box"`
	}
	err := f.get(ctx, "/api/v1/proofs?asset="+asset, &list)
	return len(list), err
}

func (f *fleet) originBytes(ctx context.Context, asset string) (int64, error) {
	var sent struct {
		Bytes map[string]int64 `json:"bytes"`
	}
	err := f.get(ctx, "/api/v1/origin", &sent)
	return sent.Bytes[asset], err
}
