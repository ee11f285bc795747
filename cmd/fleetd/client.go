package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// client talks to the manager's API.
type client struct {
	api, dir string
	json     bool
}

// token comes from the environment or, on the manager's machine, from its directory.
func (c *client) token() string {
	if t := os.Getenv("BOXD_FLEET_TOKEN"); t != "" {
		return t
	}
	if c.dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(c.dir, "api-token"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (c *client) request(ctx context.Context, method, path string, in io.Reader, kind string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.api, "/")+path, in)
	if err != nil {
		return nil, usageError{Err: err}
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if t := c.token(); t != "" {
		req.Header.Set("Authorization", "Bearer "+t)
	}
	if strings.HasPrefix(path, "/api/v1/assets") && method != http.MethodGet {
		req.Header.Set("Accept", "application/x-ndjson")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("nobody answers on %s; is fleetd serving there? (--api, BOXD_FLEET_API) %w", c.api, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var fault struct{ Code, Error string }
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&fault) != nil || fault.Error == "" {
		fault.Error = resp.Status
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return nil, errors.New("the API wants a token: give --dir of the fleet, or BOXD_FLEET_TOKEN")
	}
	return nil, &apiError{code: fault.Code, text: fault.Error}
}

// apiError is what the manager said no with.
type apiError struct{ code, text string }

func (e *apiError) Error() string { return e.text }

// call sends a document and reads one.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var bodyR io.Reader
	kind := ""
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		bodyR, kind = bytes.NewReader(data), "application/json"
	} else if method != http.MethodGet && method != http.MethodDelete {
		bodyR, kind = strings.NewReader("{}"), "application/json"
	}
	resp, err := c.request(ctx, method, path, bodyR, kind)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// copyTo streams an answer, such as an export.
func (c *client) copyTo(ctx context.Context, w io.Writer, path string) error {
	resp, err := c.request(ctx, http.MethodGet, path, nil, "")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("the answer was cut off: %w", err)
	}
	return nil
}

// show prints a document as JSON, or hands it to the table.
func (c *client) show(w io.Writer, doc any, table func(*tabwriter.Writer)) error {
	if c.json || table == nil {
		data, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, string(data))
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	table(tw)
	return tw.Flush()
}
