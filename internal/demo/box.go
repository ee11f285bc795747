package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Box is one boxd process with an identity, a cache and a configuration of its own.
type Box struct {
	Name      string
	program   string
	dir       string
	swarmPort int
	httpPort  int
	static    []string
	proc      *process
	peakRSS   int64
}

// Status is what the demonstration reads of `boxd status --json`.
type Status struct {
	Box struct {
		ID string `json:"id"`
	} `json:"box"`
	Assets []AssetStatus `json:"assets"`
	Health []struct {
		Code string `json:"code"`
		Text string `json:"text"`
	} `json:"health"`
}

// AssetStatus is one asset on one box.
type AssetStatus struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	State    string  `json:"state"`
	Length   int64   `json:"length"`
	Verified int64   `json:"verified"`
	Rate     float64 `json:"rate"`
	Role     string  `json:"role"`
	Why      string  `json:"why"`
	Bytes    struct {
		LAN    int64 `json:"lan"`
		Peer   int64 `json:"peer"`
		Origin int64 `json:"origin"`
	} `json:"bytes"`
}

// Asset finds an asset in the status.
func (s *Status) Asset(id string) AssetStatus {
	for _, a := range s.Assets {
		if a.ID == id {
			return a
		}
	}
	return AssetStatus{ID: id}
}

// URL is the base of the box's loopback server.
func (b *Box) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", b.httpPort) }

// Dir is where the box keeps everything.
func (b *Box) Dir() string { return b.dir }

func (b *Box) configure(h *Home) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	synced := filepath.Join(b.dir, "clock-synchronised")
	if err := os.WriteFile(synced, nil, 0o644); err != nil { // this machine's clock is taken as right
		return err
	}
	static, err := json.Marshal(b.static) // a JSON list of strings is a TOML one
	if err != nil {
		return err
	}
	if b.static == nil {
		static = []byte("[]")
	}
	brokerList, err := json.Marshal(h.brokers)
	if err != nil {
		return err
	}
	fw := h.Fleet.Firmware()
	text := fmt.Sprintf(`[paths]
cache = %q
state = %q
socket = %q
timesync = %q

[fleet]
url = %q
ca = %q
root = %q
token_file = %q
brokers = %s

[cache]
quota = "4GiB"
reserve = "64MiB"

[swarm]
listen = ":%d"

[lan]
mdns = %v
static = %s

[http]
listen = "127.0.0.1:%d"

[limits]
wan_down = "%dB/s"
`, filepath.Join(b.dir, "cache"), filepath.Join(b.dir, "state"), b.socket(), synced,
		h.Fleet.URL(), filepath.Join(fw, "ca.pem"), filepath.Join(fw, "root.json"), filepath.Join(fw, "token"), brokerList,
		b.swarmPort, len(b.static) == 0, static, b.httpPort, h.WANRate)
	return os.WriteFile(b.config(), []byte(text), 0o644)
}

func (b *Box) config() string { return filepath.Join(b.dir, "boxd.toml") }
func (b *Box) socket() string { return filepath.Join(b.dir, "boxd.sock") }

// Start runs the box and waits until it answers.
func (b *Box) Start(ctx context.Context) error {
	p, err := startProcess(b.Name, filepath.Join(b.dir, "log"), b.program, "run", "--config", b.config())
	if err != nil {
		return err
	}
	b.proc = p
	return p.until(ctx, "answering on its socket", 2*time.Minute, func(ctx context.Context) error {
		_, err := b.Status(ctx)
		return err
	})
}

// Status asks the box how it is.
func (b *Box) Status(ctx context.Context) (Status, error) {
	var st Status
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", b.socket())
		},
	}}
	err := getJSON(ctx, &client, "http://boxd/api/v1/status", nil, &st)
	if rss := peakRSS(b.proc); rss > b.peakRSS {
		b.peakRSS = rss
	}
	return st, err
}

// Kill ends the box as pulling the plug would, as far as a process goes.
func (b *Box) Kill() { b.proc.kill() }

// Signal sends the box a signal.
func (b *Box) Signal(s syscall.Signal) { b.proc.signal(s) }

func (b *Box) signalStop() {
	if b.proc != nil {
		b.proc.signal(syscall.SIGCONT)
		b.proc.signal(syscall.SIGTERM)
	}
}

// Stop ends the box in an orderly way.
func (b *Box) Stop() error { return b.proc.stop() }

// Fetch reads a file of an asset as a player would and returns its SHA-256.
func (b *Box) Fetch(ctx context.Context, id, file string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL()+"/assets/"+id+"/"+file, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s", req.URL, resp.Status)
	}
	return readerSHA256(resp.Body)
}

func getJSON(ctx context.Context, client *http.Client, url string, header http.Header, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.200s", url, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	return nil
}

// peakRSS reads the greatest resident memory that the kernel saw, in bytes.
func peakRSS(p *process) int64 {
	if p == nil || p.cmd.Process == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

// errNotYet is what a question returns whose answer is not there yet.
var errNotYet = errors.New("not yet")
