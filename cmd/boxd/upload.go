package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// uploader sends documents that are too long for MQTT to the fleet manager.
func uploader(client *http.Client, base string) func(ctx context.Context, name string, body []byte) error {
	return func(ctx context.Context, name string, body []byte) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, base+"/"+url.PathEscape(name), bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
		defer resp.Body.Close()                                      // only its status matters
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection can be used again
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("upload %s: the server answered %s", name, resp.Status)
		}
		return nil
	}
}
