package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The control of the power cuts is the same boxd with the syncs of media taken out: the compiler is given another text in
// place of one file, so that no program that ships knows of such a thing. Its index is committed and synced as ever, and
// so claims pieces that the disk does not have yet.
const syncingFile = "internal/durable/os.go"

var syncs = map[string]string{
	`return f.control("fdatasync", unix.Fdatasync)`:                          "return nil",
	`return unix.SyncFileRange(fd, off, length, unix.SYNC_FILE_RANGE_WRITE)`: "return nil",
}

// withoutSyncs takes the calls out of the text of syncingFile.
func withoutSyncs(text string) (string, error) {
	for call, instead := range syncs {
		if strings.Count(text, call) != 1 {
			return "", fmt.Errorf("%s does not have %q once: mend the control", syncingFile, call)
		}
		text = strings.Replace(text, call, instead, 1)
	}
	return text, nil
}

// buildControl compiles that boxd; the test runs in the root of the tree.
func (t *test) buildControl(ctx context.Context) error {
	file, err := filepath.Abs(syncingFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	without, err := withoutSyncs(string(text))
	if err != nil {
		return err
	}
	other, overlay := filepath.Join(t.work, "os-without-syncs.go.txt"), filepath.Join(t.work, "overlay.json")
	if err := os.WriteFile(other, []byte(without), 0o644); err != nil {
		return err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {file: other}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(overlay, list, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-overlay", overlay,
		"-o", t.control(), "./cmd/boxd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARM=7",
		"GOARCH="+map[string]string{"arm64": "arm64", "armhf": "arm"}[t.arch])
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the control: %w: %s", err, out)
	}
	return nil
}

func (t *test) control() string { return filepath.Join(t.work, "boxd-without-syncs") }
