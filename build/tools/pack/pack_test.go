package main

import "testing"

func TestPackageVersionOrders(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	for describe, want := range map[string]string{
		"v1.2.3":            "1.2.3",
		"v1.2.3-4-gabc1234": "1.2.3+4.gabc1234",
		"v1.2.3-dirty":      "1.2.3+dirty",
		"0a0257c":           "0.0.0+1767225600.0a0257c",
		"v1.2-odd":          "0.0.0+1767225600.v1.2.odd",
	} {
		if got := packageVersion(describe); got != want {
			t.Errorf("packageVersion(%q) = %q, want %q", describe, got, want)
		}
	}
}
