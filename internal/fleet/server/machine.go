package server

import (
	"fmt"

	"boxd/internal/durable"
	"boxd/internal/fleet/registry"
)

// The alerts about what fleetd runs on.
const (
	AlertStore = "broker-store" // a broker's store is nearly full
	AlertDisk  = "manager-disk" // so is the manager's disk
)

// minFree is how much room the manager's directory should have, in bytes.
const minFree = 1 << 30

// machine tells what is wrong with what fleetd runs on.
func (s *Server) machine() []registry.Alert {
	var list []registry.Alert
	if l := s.bus.Level(); l.High() {
		list = append(list, registry.Alert{
			Code: AlertStore, Severity: "critical",
			Text: fmt.Sprintf("the broker's store holds %d of at most %d bytes: when it is full, no box can connect or be heard. "+
				"Is the database slow or down, or the disk full?", l.Used, l.Max),
		})
	}
	if free, total, err := durable.OS().Free(s.o.Dir); err == nil && free < min(minFree, total/10) {
		list = append(list, registry.Alert{
			Code: AlertDisk, Severity: "critical",
			Text: fmt.Sprintf("%d bytes are left on the disk of %s: boxes keep their proofs when nothing can be stored", free, s.o.Dir),
		})
	}
	return list
}

// missing says what keeps boxes from being served.
func (s *Server) missing() []string {
	list := s.ready.missing()
	if s.bus.Level().High() {
		list = append(list, "room in the broker's store")
	}
	return list
}
