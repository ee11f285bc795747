package identity

import (
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzRefusal(f *testing.F) {
	f.Add(403, "token-expired: the token ended", "3")
	f.Add(503, "\x00\xff\n", "-1")
	f.Fuzz(func(t *testing.T, status int, body, retry string) {
		r := refusal(&http.Response{StatusCode: status, Header: http.Header{"Retry-After": {retry}}}, []byte(body))
		if !utf8.ValidString(r.Text) || strings.ContainsAny(r.Text, "\n\r\x00\x1b") || len(r.Text) > 1200 || r.RetryAfter < 0 {
			t.Fatalf("%q, wait %s", r.Text, r.RetryAfter)
		}
	})
}

func FuzzIdentityFile(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	data, err := keyPEM(key, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, rest, err := parseKey(data); err == nil {
			if k == nil || len(rest) > len(data) {
				t.Fatal("neither a key nor an error")
			}
			_, _ = parseCertificates(rest)
		}
		_, _ = parseCertificates(data)
	})
}
