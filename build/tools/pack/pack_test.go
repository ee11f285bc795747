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

func TestClassify(t *testing.T) {
	for text, want := range map[string]string{
		"Mozilla Public License Version 2.0\n====":                                           "MPL-2.0",
		"  Apache License\n   Version 2.0, January 2004":                                     "Apache-2.0",
		"Permission is hereby granted, free of charge,\nto any person obtaining a copy of":   "MIT",
		"Copyright me\n   Licensed under the Apache License, Version 2.0 (the \"License\");": "Apache-2.0",
		"All rights reserved, ask us":                                                        "",
	} {
		if got := classify(text); got != want {
			t.Errorf("classify(%q) = %q, want %q", text, got, want)
		}
	}
}
