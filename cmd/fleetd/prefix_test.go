package main

import (
	"strings"
	"testing"
)

func TestPrefixInBytesAndSeconds(t *testing.T) {
	for _, c := range []struct {
		prefix, bitrate string
		want            int64
		fault           string
	}{
		{"", "", 0, ""},
		{"16MB", "", 16_000_000, ""},
		{"4096", "", 4096, ""},
		{"30s", "8Mbit/s", 30_000_000, ""},
		{"1m30s", "2.5Mbit", 28_125_000, ""},
		{"30s", "", 0, "needs --bitrate"},
		{"30s", "8MB/s", 0, "want for example 8Mbit/s"},
		{"-5s", "8Mbit/s", 0, "more than nothing"},
		{"2MB/s", "", 0, "want for example 16MB"},
		{"some", "", 0, "want for example 16MB"},
	} {
		got, err := parsePrefix(c.prefix, c.bitrate)
		if got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%q %q: %d, %v", c.prefix, c.bitrate, got, err)
		}
	}
}
