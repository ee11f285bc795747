package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeSBOM writes a CycloneDX 1.5 list of the modules in the binary. It is the same for the same binary: no serial
// number, and the time of the commit.
func writeSBOM(name, binary, version string, modules []linkedModule) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(program)
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: sourceTime().UTC().Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: "boxd", Type: cdx.ComponentTypeApplication, Name: "boxd", Version: version,
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
			Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		},
	}
	components, refs := []cdx.Component{}, []string{}
	for _, m := range modules {
		purl := fmt.Sprintf("pkg:golang/%s@%s", m.Path, m.Version)
		c := cdx.Component{
			BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl,
			Scope: cdx.ScopeRequired, Licenses: &cdx.Licenses{{Expression: m.Licence}},
		}
		if m.Sum != "" {
			c.Properties = &[]cdx.Property{{Name: "golang:sum", Value: m.Sum}}
		}
		if m.StandIn {
			c.Description = "names and types only, written for boxd in place of the module"
		}
		components, refs = append(components, c), append(refs, purl)
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: "boxd", Dependencies: &refs}}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_5); err != nil {
		_ = f.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	return f.Close()
}

// sourceTime is the time that goes into everything made here.
func sourceTime() time.Time {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return time.Unix(0, 0)
	}
	return time.Unix(seconds, 0)
}
