package mgmt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Uploader returns an Upload function that puts documents to <base>/<name> with a client that presents the box's
// certificate. base is such as https://fleet.example:8443/upload.
func Uploader(client *http.Client, base string) func(ctx context.Context, name string, body []byte) error {
	return func(ctx context.Context, name string, body []byte) error {
		target := strings.TrimRight(base, "/") + "/" + url.PathEscape(name)
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode/100 != 2 {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // only to say why
			return fmt.Errorf("upload %s: %s: %s", name, resp.Status, strings.TrimSpace(string(text)))
		}
		return nil
	}
}
