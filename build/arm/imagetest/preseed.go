package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// preseed lays out what docs/integrating.md says of media from the factory: the film as a cache would hold it, and the two
// files that have it copied at the first start.
func (t *test) preseed(root string) error {
	torrents, err := filepath.Glob(filepath.Join(t.dir, "fleet/tuf/targets/assets/*/*"+t.Film+".torrent"))
	if err != nil || len(torrents) != 1 {
		return fmt.Errorf("the film's metainfo is in %v: %w", torrents, err)
	}
	assets := filepath.Join(root, "usr/share/boxd/preseed/assets")
	for _, f := range []struct{ from, to string }{
		{torrents[0], filepath.Join(assets, t.Film+".torrent")},
		{t.media, filepath.Join(assets, t.Film+".00000001.blob")},
		{"systemd/preseed.conf", filepath.Join(root, "usr/lib/boxd/preseed.conf")},
		{"systemd/boxd.service.d/50-preseed.conf", filepath.Join(root, "usr/lib/systemd/system/boxd.service.d/50-preseed.conf")},
	} {
		if err := os.MkdirAll(filepath.Dir(f.to), 0o755); err != nil {
			return err
		}
		data, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.to, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withoutToken copies the fleet's four files but the token and the key that names it: the box gets its token as a system
// credential, which the kernel's command line gives here.
func (t *test) withoutToken(firmware string) (folder string, err error) {
	folder = filepath.Join(t.dir, "without-token")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"boxd.toml", "ca.pem", "root.json"} {
		text, err := os.ReadFile(filepath.Join(firmware, name))
		if err != nil {
			return "", err
		}
		text = regexp.MustCompile(`(?m)^token_file.*\n`).ReplaceAll(text, nil)
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return "", err
		}
	}
	return folder, nil
}

func (t *test) tokenCredential() (string, error) {
	token, err := os.ReadFile(filepath.Join(t.dir, "fleet/firmware/token"))
	return "systemd.set_credential=boxd.token:" + strings.TrimSpace(string(token)), err
}
