package lan

import "sync/atomic"

// Stats counts since the start.
type Stats struct {
	Admitted     int64 // connections that became neighbours
	Refused      int64 // failed TLS, revoked, or too many
	OtherFleet   int64 // valid certificates of another fleet
	OffLink      int64 // connections from addresses outside of the home
	Malformed    int64 // messages that broke the protocol
	HintsIgnored int64 // mDNS answers of other fleets, off-link or beyond the bounds
	Vetoes       int64 // own votes against couriers
	Yields       int64 // courierships handed over to a faster box
	Candidates   int64 // addresses known now
}

type counters struct {
	admitted, refused, otherFleet, offLink, malformed, hintsIgnored, vetoes, yields atomic.Int64
}

// Stats returns the counters.
func (l *LAN) Stats() Stats {
	l.mu.Lock()
	n := len(l.found.by)
	l.mu.Unlock()
	c := &l.stats
	return Stats{
		Admitted: c.admitted.Load(), Refused: c.refused.Load(), OtherFleet: c.otherFleet.Load(),
		OffLink: c.offLink.Load(), Malformed: c.malformed.Load(), HintsIgnored: c.hintsIgnored.Load(),
		Vetoes: c.vetoes.Load(), Yields: c.yields.Load(), Candidates: int64(n),
	}
}
