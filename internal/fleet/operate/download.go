package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Download fetches an http(s) URL into dir and returns the file's path. A body that is cut off is an error.
func Download(ctx context.Context, from, dir string) (string, error) {
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("%w: %.100q is not an http or https URL", ErrBad, from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBad, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: fetch %s: %w", ErrBad, u.Redacted(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: fetch %s: %s", ErrBad, u.Redacted(), resp.Status)
	}
	name := path.Base(u.Path)
	if name == "" || name == "." || name == "/" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "\\\x00") {
		name = "asset"
	}
	file := filepath.Join(dir, name)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("download: %w", err)
	}
	n, err := io.Copy(f, resp.Body)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("%w: fetch %s: %w", ErrBad, u.Redacted(), err)
	}
	if resp.ContentLength >= 0 && n != resp.ContentLength {
		return "", fmt.Errorf("%w: fetch %s: %d bytes came of %d", ErrBad, u.Redacted(), n, resp.ContentLength)
	}
	return file, nil
}

// CatalogVersion is the version of the published catalog.
func (f *Fleet) CatalogVersion() (int64, error) { return f.o.Repo.Version() }
