package api

import (
	"io"
	"net/http"
	"time"
)

// The reader of an answer may take nothing for so long. Exports may be long, and have no limit of their own.
const (
	stallLimit = time.Minute
	stallStep  = 64 << 10 // bytes that may take so long: a large answer in one piece is no reason to hurry
)

// patient waits for a slow reader, and not for one that has stopped: what it holds (memory, a connection, a page of the
// database) is given back.
type patient struct {
	http.ResponseWriter
	ctl   *http.ResponseController
	stall time.Duration
}

func (p patient) Write(data []byte) (n int, _ error) {
	for first := true; first || len(data) > 0; first = false {
		_ = p.ctl.SetWriteDeadline(time.Now().Add(p.stall)) // not every connection has deadlines
		wrote, err := p.ResponseWriter.Write(data[:min(len(data), stallStep)])
		if n += wrote; err != nil {
			return n, err
		}
		data = data[wrote:]
	}
	return n, nil
}

// Unwrap is for http.ResponseController.
func (p patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// impatient is the body of an upload: it may take long as a whole, but not come to a stop.
type impatient struct {
	io.ReadCloser
	ctl *http.ResponseController
}

func (p impatient) Read(buf []byte) (int, error) {
	_ = p.ctl.SetReadDeadline(time.Now().Add(stallLimit)) // not every connection has deadlines
	n, err := p.ReadCloser.Read(buf)
	if err != nil { // what watches over the connection from now on has no deadline
		_ = p.ctl.SetReadDeadline(time.Time{})
	}
	return n, err
}
