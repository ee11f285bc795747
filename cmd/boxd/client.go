package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"boxd/internal/control"
)

// maxAnswer bounds what the command line reads of one answer.
const maxAnswer = 64 << 20

// client asks the daemon over its socket.
type client struct {
	socket string
	http   *http.Client
}

func (c *command) client() *client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.socket)
	}
	return &client{socket: c.socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1}}}
}

// notRunning is the error when nobody answers on the socket.
type notRunning struct{ text string }

func (e notRunning) Error() string { return e.text }

func (c *client) explain(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return notRunning{fmt.Sprintf("boxd does not answer on %s; is it running? (systemctl status boxd)", c.socket)}
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not use %s; become root or join the group boxd", c.socket)
	}
	return err
}

func (c *client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", path, err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://boxd"+path, rd)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	return resp, nil
}

// read returns the whole answer, or its error.
func (c *client) read(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() // it was only read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(b, resp.Status)
	}
	return b, nil
}

func (c *client) get(ctx context.Context, path string, v any) error {
	b, err := c.read(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func (c *client) status(ctx context.Context) (*control.Snapshot, error) {
	var s control.Snapshot
	return &s, c.get(ctx, "/api/v1/status", &s)
}

// run asks the daemon to do something.
func (c *client) run(ctx context.Context, name string, args any) (control.Result, error) {
	cmd := control.Command{Name: name}
	if args != nil {
		b, err := json.Marshal(args)
		if err != nil {
			return control.Result{}, fmt.Errorf("encode the arguments of %s: %w", name, err)
		}
		cmd.Args = b
	}
	resp, err := c.do(ctx, http.MethodPost, "/api/v1/commands", cmd)
	if err != nil {
		return control.Result{}, err
	}
	defer resp.Body.Close() // it was only read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return control.Result{}, fmt.Errorf("read the answer to %s: %w", name, err)
	}
	var res control.Result
	if err := json.Unmarshal(b, &res); err != nil || res.Status == "" {
		return control.Result{}, refusal(b, resp.Status)
	}
	return res, nil
}

func refusal(body []byte, status string) error {
	var e struct {
		Error struct {
			Code string `json:"code"`
			Text string `json:"text"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) == nil && e.Error.Text != "" {
		return errors.New(e.Error.Text)
	}
	return fmt.Errorf("the daemon answered %s", status)
}
