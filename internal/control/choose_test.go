package control

import (
	"strings"
	"testing"

	"boxd/internal/asset"
)

func TestChooseSaysWhatElseToType(t *testing.T) {
	s := &Snapshot{Assets: []Asset{
		{ID: asset.ID{0x48, 0x1b}, Name: "harbour-1"}, {ID: asset.ID{0x33}, Name: "harbour-2"}, {ID: asset.ID{0x48, 0x1c}, Name: "nightfall"},
	}}
	for ref, want := range map[string]string{"481b": "harbour-1", "night": "nightfall", "harbour-2": "harbour-2"} {
		if a, err := s.Choose(ref); err != nil || a.Name != want {
			t.Errorf("%q is %q, %v", ref, a.Name, err)
		}
	}
	for ref, want := range map[string]string{
		"harb": "2 assets", "48": "2 assets", "n": "too short", "481b00000x": "no asset", "": "no asset",
	} {
		if a, err := s.Choose(ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %q, %v; want %q", ref, a.Name, err, want)
		}
	}
}
