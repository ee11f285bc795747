package engine

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"

	"boxd/internal/asset"
)

// remote is a peer as the library knows it: an address that we made up from what the peer is, not from where it is, so
// that the library's ban of an address is a ban of a box. It carries what dialling needs.
type remote struct {
	key   string // "[fd…]:slot", unique for a box and a torrent
	box   string // empty until it is known
	class Class
	addr  netip.AddrPort // where it really is
	swarm *swarm
}

// Network and String make remote a net.Addr.
func (r *remote) Network() string { return "tcp" }
func (r *remote) String() string  { return r.key }

// madeUpAddr maps a name to an address of fd00::/8 (RFC 4193, locally assigned), which no real peer of ours has.
func madeUpAddr(kind, name string, gen int) netip.Addr {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", kind, name, gen))
	var a [16]byte
	copy(a[:], sum[:])
	a[0] = 0xfd
	return netip.AddrFrom16(a)
}

// sniSuffix ends the server name by which a dialler says which torrent it wants.
const sniSuffix = ".boxd"

// ServerName is what a dialler names in the TLS handshake: the torrent it wants.
func ServerName(id asset.ID) string { return id.String() + sniSuffix }

// assetOf reads what ServerName wrote.
func assetOf(serverName string) (asset.ID, bool) {
	hex, ok := strings.CutSuffix(serverName, sniSuffix)
	if !ok {
		return asset.ID{}, false
	}
	id, err := asset.ParseID(hex)
	return id, err == nil
}
