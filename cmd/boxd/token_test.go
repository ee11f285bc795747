package main

import (
	"os"
	"path/filepath"
	"testing"

	"boxd/internal/config"
)

// What the configuration says counts; only then the credential that systemd hands over.
func TestEnrolmentTokenComesFrom(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	must(t, os.WriteFile(file, []byte("from file\n"), 0o600))
	with, without := filepath.Join(dir, "credentials"), filepath.Join(dir, "none")
	must(t, os.MkdirAll(with, 0o700))
	must(t, os.MkdirAll(without, 0o700))
	must(t, os.WriteFile(filepath.Join(with, "boxd.token"), []byte("from systemd\n"), 0o400))
	for _, c := range []struct{ name, token, file, credentials, want string }{
		{"nothing", "", "", "", ""},
		{"credential", "", "", with, "from systemd"},
		{"no such credential", "", "", without, ""},
		{"token first", "from config", "", with, "from config"},
		{"file first", "", file, with, "from file"},
		{"a file that is gone", "", file + "-gone", with, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("CREDENTIALS_DIRECTORY", c.credentials)
			cfg := &config.Config{}
			cfg.Fleet.Token, cfg.Fleet.TokenFile = c.token, c.file
			if got, err := enrolToken(cfg); err != nil || got != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
	bad := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(bad, "boxd.token"), 0o700))
	t.Setenv("CREDENTIALS_DIRECTORY", bad)
	if _, err := enrolToken(&config.Config{}); err == nil {
		t.Error("a credential that cannot be read was passed over")
	}
}
