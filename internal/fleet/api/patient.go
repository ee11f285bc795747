package api

import (
	"net/http"
	"time"
)

// stallLimit is how long the reader of an answer may take nothing. Exports may be long, and have no limit of their own.
const stallLimit = time.Minute

// patient waits for a slow reader, and not for one that has stopped: what it holds (memory, a connection, a page of the
// database) is given back.
type patient struct {
	http.ResponseWriter
	ctl   *http.ResponseController
	stall time.Duration
}

func (p patient) Write(data []byte) (int, error) {
	_ = p.ctl.SetWriteDeadline(time.Now().Add(p.stall)) // not every connection has deadlines
	return p.ResponseWriter.Write(data)
}

// Unwrap is for http.ResponseController.
func (p patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
