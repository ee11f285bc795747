package asset

import (
	"strings"
	"testing"
)

func TestDeepNesting(t *testing.T) {
	for _, prefix := range []string{"d8:url-list", "d1:z", "d4:infod5:filesl", "d4:infod1:z", "l", "d4:boxdd5:types", "d4:info"} {
		for _, open := range []string{"l", "d1:a"} {
			n := (MaxTorrentBytes - 100) / len(open)
			b := []byte(prefix + strings.Repeat(open, n))
			if _, err := ParseTorrent(b); err == nil {
				t.Errorf("%s: accepted", prefix)
			}
			if _, err := ParseExtra(b); err == nil {
				t.Errorf("%s: accepted", prefix)
			}
		}
	}
}
