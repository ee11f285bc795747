// Package datachannel stands in for github.com/pion/datachannel: the one interface that anacrolix/torrent names.
//
// Nothing implements it, since no WebRTC is built into boxd. See docs/adr/0003-webrtc-types-only.md.
package datachannel

import "io"

// ReadWriteCloser is the stream of an open data channel.
type ReadWriteCloser interface {
	io.Reader
	io.Writer
	io.Closer
}
