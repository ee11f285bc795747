package httpapi

import "testing"

func TestFirstByteOfARequest(t *testing.T) {
	for header, want := range map[string]int64{
		"": 0, "bytes=0-": 0, "bytes=7-": 7, "bytes=7-9": 7, "bytes=7-9,1-2": 7, "bytes= 7-9": 7, "bytes=-10": 90, "bytes=-1000": 0,
		"bytes=100-": 100, "bytes=1000-": 100, "bytes=-": 0, "bytes=x-": 0, "bytes=-0": 0, "lines=5-": 0, "bytes=99999999999999999999-": 0, "bytes=5": 0,
	} {
		if got := firstByte(header, 100); got != want {
			t.Errorf("%q begins at %d, want %d", header, got, want)
		}
	}
}
