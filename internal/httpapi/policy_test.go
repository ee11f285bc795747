package httpapi

import (
	"strings"
	"testing"
)

// TestPagesAllowNothingForeign: neither the page nor what it loads may run anything that did not come from this server as a file.
func TestPagesAllowNothingForeign(t *testing.T) {
	s := start(t, newFakeBox(t, 10), nil)
	for _, url := range []string{s.base + "/", s.base + "/page/app.js", s.base + "/api/v1/status", s.lan + "/pair", s.lan + "/page/style.css"} {
		resp, _ := call{url: url}.do(t)
		policy := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != 200 || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") ||
			strings.Contains(policy, "*") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: %s, policy %q", url, resp.Status, policy)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be taken for something else", url)
		}
	}
}

// TestAnAssetIsNoPageOfTheBox: what an operator publishes is shown by browsers, but a page among it cannot speak for the box.
func TestAnAssetIsNoPageOfTheBox(t *testing.T) {
	for kind, own := range map[string]bool{
		"video/mp4": true, "audio/mpeg": true, "image/png": true,
		"text/html": false, "image/svg+xml": false, "application/xhtml+xml": false, "application/octet-stream": false, "": false,
	} {
		policy := mediaPolicy(kind)
		if strings.HasPrefix(policy, "sandbox;") == own || strings.Contains(policy, "script-src") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%q is served with %q", kind, policy)
		}
	}
}
