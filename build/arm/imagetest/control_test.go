package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheControlStillFindsTheSyncs: when the code that syncs is written anew, this fails, and not the test with the guests.
func TestTheControlStillFindsTheSyncs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("../../..", syncingFile))
	if err != nil {
		t.Fatal(err)
	}
	without, err := withoutSyncs(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(without, "unix.Fdatasync") {
		t.Error("the control still syncs")
	}
	if _, err := withoutSyncs("package durable"); err == nil {
		t.Error("a file without the calls was taken")
	}
}
