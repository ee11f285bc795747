package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// target is what the boxes connect to.
type target struct {
	name   string // "fleetd" or "mosquitto"
	fleet  string
	addr   string
	api    string
	dir    string
	binary string
	cmd    *exec.Cmd

	profiles string // where profiles are written; empty: none

	root   *x509.CertPool
	inter  *x509.Certificate
	signer *ecdsa.PrivateKey
	chain  [][]byte
	key    *ecdsa.PrivateKey // of all boxes: making thousands is not what is measured
	serial int64
}

func newTarget(ctx context.Context, name, binary, dir, profiles string) (*target, error) {
	t := &target{name: name, fleet: "bench", binary: binary, dir: filepath.Join(dir, "fleet"), profiles: profiles}
	var err error
	if t.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if name == "mosquitto" {
		t.profiles = "" // it has none, and other uses for the signals
	}
	// The certificate authority is fleetd's too; it may have made one already, and init refuses a fleet that is there.
	if _, err := os.Stat(filepath.Join(t.dir, "fleet.json")); name == "mosquitto" && err != nil {
		if out, err := exec.CommandContext(ctx, binary, "init", "--dir", t.dir, "--fleet", t.fleet, "--host", "127.0.0.1").
			CombinedOutput(); err != nil {
			return nil, fmt.Errorf("init: %w: %s", err, out)
		}
	}
	for _, p := range []*string{&t.addr, &t.api} {
		if *p, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	if err := t.start(ctx); err != nil {
		return nil, err
	}
	return t, t.loadCA()
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (t *target) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(filepath.Dir(t.dir), t.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	if t.name == "mosquitto" {
		conf, err := t.mosquittoConf(ctx)
		if err != nil {
			return err
		}
		t.cmd = exec.CommandContext(ctx, "mosquitto", "-c", conf)
	} else {
		t.cmd = exec.CommandContext(
			ctx,
			t.binary,
			"serve",
			"--dir",
			t.dir,
			"--fleet",
			t.fleet,
			"--listen",
			"127.0.0.1:0",
			"--mqtt",
			t.addr,
			"--api",
			t.api,
			"--host",
			"127.0.0.1",
			"--log-level",
			"warn",
		)
		if t.profiles != "" {
			t.cmd.Args = append(t.cmd.Args, "--profiles", t.profiles)
		}
	}
	t.cmd.Stdout, t.cmd.Stderr = log, log
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := t.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		if t.answers(ctx) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("it did not come up")
}

func (t *target) answers(ctx context.Context) bool {
	if t.name == "mosquitto" {
		c, err := net.Dial("tcp", t.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.api+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (t *target) kill() {
	if t.cmd != nil {
		_ = t.cmd.Process.Kill()
		_ = t.cmd.Wait()
		t.cmd = nil
	}
}

// mosquittoConf has the same rules as fleetd's broker; see docs/mqtt.md.
func (t *target) mosquittoConf(ctx context.Context) (string, error) {
	dir := filepath.Join(filepath.Dir(t.dir), "mosquitto")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// The TLS files of a broker node are what broker-config writes.
	out, err := exec.CommandContext(ctx, t.binary, "broker-config", "--dir", t.dir, "--name", "m", "--tls-dir", dir).
		CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("broker-config: %w: %s", err, out)
	}
	acl := "user fleetd\ntopic readwrite boxd/v1/#\n"
	rules := []string{
		"write %/state", "write %/reported", "write %/tele", "write %/evt/+", "write %/cmd/+/ack",
		"read %/desired", "read %/cmd/+", "read %/evt/+/ack",
	}
	for _, p := range rules {
		acl += "pattern " + strings.Replace(p, "%", "boxd/v1/"+t.fleet+"/%u", 1) + "\n"
	}
	acl += "pattern read boxd/v1/" + t.fleet + "/group/+/desired\n"
	_, port, err := net.SplitHostPort(t.addr)
	if err != nil {
		return "", err
	}
	conf := fmt.Sprintf("listener %s 127.0.0.1\ncafile %[2]s/m-boxes.pem\ncertfile %[2]s/m-cert.pem\nkeyfile %[2]s/m-key.pem\n"+
		"require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nacl_file %[2]s/acl\npersistence false\n"+
		"max_packet_size 65536\nlog_type error\nuser root\n", port, dir)
	path := filepath.Join(dir, "mosquitto.conf")
	return path, errors.Join(os.WriteFile(filepath.Join(dir, "acl"), []byte(acl), 0o600), os.WriteFile(path, []byte(conf), 0o600))
}

// loadCA takes the boxes' intermediate: enrolling thousands of boxes is not what is measured.
func (t *target) loadCA() error {
	data, err := os.ReadFile(filepath.Join(t.dir, "ca", "boxes.pem"))
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			if t.inter, err = x509.ParseCertificate(block.Bytes); err != nil {
				return err
			}
			t.chain = [][]byte{block.Bytes}
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return err
			}
			var ok bool
			if t.signer, ok = k.(*ecdsa.PrivateKey); !ok {
				return fmt.Errorf("a %T", k)
			}
		}
	}
	root, err := os.ReadFile(filepath.Join(t.dir, "ca", "root.pem"))
	if err != nil {
		return err
	}
	t.root = x509.NewCertPool()
	if !t.root.AppendCertsFromPEM(root) || t.inter == nil || t.signer == nil {
		return errors.New("the certificate authority is not as expected")
	}
	return nil
}

func (t *target) boxTLS(id, group string) (*tls.Config, error) {
	t.serial++
	tpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1<<40 + t.serial),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		Subject:               pkix.Name{CommonName: id, Organization: []string{t.fleet}, OrganizationalUnit: []string{group}},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, t.inter, &t.key.PublicKey, t.signer)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: t.root, ServerName: "127.0.0.1", ClientSessionCache: tls.NewLRUClientSessionCache(1),
		Certificates: []tls.Certificate{{Certificate: append([][]byte{der}, t.chain...), PrivateKey: t.key}},
	}, nil
}

// memory is a line of the process's status, in bytes: VmRSS or VmHWM.
func (t *target) memory(what string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == what {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n * 1024, err
		}
	}
	return 0, errors.New("no " + what)
}

// cpu is the processor time that the process has used.
func (t *target) cpu() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	sys, err2 := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+sys) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// costs is the processor time that the manager and this program have used.
type costs struct{ manager, client time.Duration }

func (t *target) costs() costs {
	var c costs
	c.manager, _ = t.cpu() // 0 when it is gone, which shows in what follows
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		c.client = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return c
}

// each is what one of n took since then, in milliseconds.
func (c costs) each(t *target, n int) (manager, client float64) {
	now := t.costs()
	per := float64(n) * float64(time.Millisecond)
	return float64(now.manager-c.manager) / per, float64(now.client-c.client) / per
}

// stored is how many messages are committed; -1 where there is no store.
func (t *target) stored(ctx context.Context) (int64, error) {
	if t.name == "mosquitto" {
		return -1, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.api+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, "fleetd_messages_total "); ok {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, errors.New("no fleetd_messages_total")
}

// wish makes the operator's side send a wish to the whole group.
func (t *target) wish(ctx context.Context) error {
	if t.name == "mosquitto" {
		return t.wishByBox(ctx)
	}
	token, err := os.ReadFile(filepath.Join(t.dir, "api-token"))
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"wan_down": 1_000_000})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(
		ctx,
		http.MethodPut,
		"http://"+t.api+"/api/v1/config/group:default",
		bytes.NewReader(body),
	)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("wish: %s", resp.Status)
	}
	return nil
}

// wishByBox publishes the wish as fleetd would, with a certificate whose name the rules let write.
func (t *target) wishByBox(ctx context.Context) error {
	cfg, err := t.boxTLS("fleetd", "ops")
	if err != nil {
		return err
	}
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return err
	}
	p := connectPacket("fleetd", "boxd/v1/"+t.fleet+"/fleetd/state", []byte("{}"))
	p = append(p, publishPacket("boxd/v1/"+t.fleet+"/group/default/desired", bytes.Repeat([]byte("x"), 600), 0, true, 0)...)
	if _, err := conn.Write(p); err != nil {
		return errors.Join(err, conn.Close())
	}
	go func() { // the wish may still be on its way
		time.Sleep(5 * time.Second)
		_ = conn.Close()
	}()
	return nil
}
