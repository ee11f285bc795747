package state

import (
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"boxd/internal/health"
)

// A state file that cannot be written is a health code until it can; what a caller refuses by itself is none.
func TestAFileThatCannotBeWrittenIsSaid(t *testing.T) {
	warnings := health.New(nil)
	path := filepath.Join(t.TempDir(), "state.db")
	d, err := Open(path, Options{Health: warnings})
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("no")
	if err := d.Update(func(*bbolt.Tx) error { return refused }); !errors.Is(err, refused) || warnings.Has(CodeWrite) {
		t.Fatalf("err %v, said %v", err, warnings.Has(CodeWrite))
	}
	if err := d.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Put("b", []byte("k"), nil); err == nil || !warnings.Has(CodeWrite) {
		t.Fatalf("err %v, said %v", err, warnings.Has(CodeWrite))
	}
	if d.db, err = OpenBolt(path, Bolt{Format: Format}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Put("b", []byte("k"), nil); err != nil || warnings.Has(CodeWrite) {
		t.Errorf("err %v, said %v", err, warnings.Has(CodeWrite))
	}
}
