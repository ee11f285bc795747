// Package webrtc stands in for github.com/pion/webrtc/v4: the names that anacrolix/torrent compiles against, no WebRTC.
//
// boxd switches WebTorrent off (DisableWebtorrent) and brings its own connections; what the real package would add is
// 2.7 MB of code that must never run. Every operation that can fail here fails with ErrNotBuilt, and no PeerConnection
// can be made, so the methods that cannot fail are never reached. See docs/adr/0003-webrtc-types-only.md.
package webrtc

import (
	"errors"

	"github.com/pion/datachannel"
)

// ErrNotBuilt is what every operation returns.
var ErrNotBuilt = errors.New("WebRTC is not built into this program")

// ICEServer names a STUN or TURN server; nothing ever contacts it.
type ICEServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential any      `json:"credential,omitempty"`
}

// Configuration of a PeerConnection.
type Configuration struct{ ICEServers []ICEServer }

// SettingEngine is accepted and ignored.
type SettingEngine struct{ LoggerFactory any }

// DetachDataChannels does nothing.
func (*SettingEngine) DetachDataChannels() {}

// API makes no PeerConnection.
type API struct{}

// NewAPI ignores its options.
func NewAPI(...func(*API)) *API { return &API{} }

// WithSettingEngine ignores the engine.
func WithSettingEngine(SettingEngine) func(*API) { return func(*API) {} }

// NewPeerConnection always fails with ErrNotBuilt.
func (*API) NewPeerConnection(Configuration) (*PeerConnection, error) { return nil, ErrNotBuilt }

// SDPType is the kind of a session description.
type SDPType int

// SessionDescription is an offer or an answer.
type SessionDescription struct {
	Type SDPType `json:"type"`
	SDP  string  `json:"sdp"`
}

// OfferOptions has nothing to choose.
type OfferOptions struct{}

// AnswerOptions has nothing to choose.
type AnswerOptions struct{}

// DataChannelInit has nothing to choose.
type DataChannelInit struct{}

// PeerConnectionState has no values, since there are no connections.
type PeerConnectionState int

// String names the state.
func (PeerConnectionState) String() string { return "not built" }

// Stats is one entry of a report; nothing implements it.
type Stats interface{ statsMarker() }

// StatsReport is always empty.
type StatsReport map[string]Stats

// ICECandidate is an address of a peer.
type ICECandidate struct {
	Address string
	Port    uint16
}

// ICECandidatePair is the path between two peers.
type ICECandidatePair struct{ Local, Remote *ICECandidate }

// ICETransport, DTLSTransport and SCTPTransport are the layers under a data channel.
type (
	ICETransport  struct{}
	DTLSTransport struct{}
	SCTPTransport struct{}
)

// GetSelectedCandidatePair always fails with ErrNotBuilt.
func (*ICETransport) GetSelectedCandidatePair() (*ICECandidatePair, error) { return nil, ErrNotBuilt }

// ICETransport returns a transport that has no candidates.
func (*DTLSTransport) ICETransport() *ICETransport { return &ICETransport{} }

// Transport returns a transport that is not connected.
func (*SCTPTransport) Transport() *DTLSTransport { return &DTLSTransport{} }

// PeerConnection cannot be made: NewPeerConnection fails.
type PeerConnection struct{}

// Close does nothing.
func (*PeerConnection) Close() error { return nil }

// OnConnectionStateChange never calls back.
func (*PeerConnection) OnConnectionStateChange(func(PeerConnectionState)) {}

// OnDataChannel never calls back.
func (*PeerConnection) OnDataChannel(func(*DataChannel)) {}

// CreateDataChannel always fails with ErrNotBuilt.
func (*PeerConnection) CreateDataChannel(string, *DataChannelInit) (*DataChannel, error) {
	return nil, ErrNotBuilt
}

// CreateOffer always fails with ErrNotBuilt.
func (*PeerConnection) CreateOffer(*OfferOptions) (SessionDescription, error) {
	return SessionDescription{}, ErrNotBuilt
}

// CreateAnswer always fails with ErrNotBuilt.
func (*PeerConnection) CreateAnswer(*AnswerOptions) (SessionDescription, error) {
	return SessionDescription{}, ErrNotBuilt
}

// SetLocalDescription always fails with ErrNotBuilt.
func (*PeerConnection) SetLocalDescription(SessionDescription) error { return ErrNotBuilt }

// SetRemoteDescription always fails with ErrNotBuilt.
func (*PeerConnection) SetRemoteDescription(SessionDescription) error { return ErrNotBuilt }

// LocalDescription is empty.
func (*PeerConnection) LocalDescription() *SessionDescription { return &SessionDescription{} }

// GetStats is empty.
func (*PeerConnection) GetStats() StatsReport { return nil }

// SCTP returns a transport that is not connected.
func (*PeerConnection) SCTP() *SCTPTransport { return &SCTPTransport{} }

// GatheringCompletePromise is complete at once: there is nothing to gather.
func GatheringCompletePromise(*PeerConnection) <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// DataChannel cannot be made: CreateDataChannel fails.
type DataChannel struct{}

// OnOpen never calls back.
func (*DataChannel) OnOpen(func()) {}

// OnClose never calls back.
func (*DataChannel) OnClose(func()) {}

// Close does nothing.
func (*DataChannel) Close() error { return nil }

// Detach always fails with ErrNotBuilt.
func (*DataChannel) Detach() (datachannel.ReadWriteCloser, error) { return nil, ErrNotBuilt }
