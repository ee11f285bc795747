package control

// Strangers counts who was not let in, and what was not believed, in the home since boxd started.
type Strangers struct {
	NoCertificate int64 `json:"no_certificate"` // connections without TLS, or without a certificate
	OtherFleet    int64 `json:"other_fleet"`    // connections with a certificate of another fleet
	Expired       int64 `json:"expired"`        // connections with a certificate that has expired
	Revoked       int64 `json:"revoked"`        // connections with a certificate that was revoked
	Crowded       int64 `json:"crowded"`        // connections beyond what there is room for
	OffLink       int64 `json:"off_link"`       // household connections from outside of the home
	Malformed     int64 `json:"malformed"`      // household messages that broke the protocol
	HintsIgnored  int64 `json:"hints_ignored"`  // multicast answers of other fleets, off-link or beyond the bounds
	WrongPieces   int64 `json:"wrong_pieces"`   // pieces with a wrong hash that boxes of the home sent to players here
}

func (b *Box) strangers() Strangers {
	if b.o.Strangers == nil {
		return Strangers{}
	}
	return b.o.Strangers()
}
