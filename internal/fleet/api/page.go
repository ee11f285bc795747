package api

import (
	"embed"
	"fmt"
	"net/http"
	"strings"

	"boxd/internal/fleet/registry"
)

//go:embed openapi.yaml
var files embed.FS

func (s *server) openapi(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	http.ServeFileFS(w, r, files, "openapi.yaml")
}

// metrics writes the Prometheus text format: a handful of numbers of the whole fleet, none for each box.
func (s *server) metrics(w http.ResponseWriter, r *http.Request, _ who) (any, error) {
	groups, err := s.o.Fleet.Registry().Groups(r.Context())
	if err != nil {
		return nil, err
	}
	var total registry.GroupCount
	for _, g := range groups {
		total.Boxes += g.Boxes
		total.Online += g.Online
		total.AtRisk += g.AtRisk
		total.LAN += g.LAN
		total.Peer += g.Peer
		total.Origin += g.Origin
	}
	var sent int64
	for _, n := range s.o.Origin() {
		sent += n
	}
	version, err := s.o.Fleet.CatalogVersion()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	gauge := func(name, help string, v any) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s %v\n", name, help, name, name, v)
	}
	gauge("fleetd_boxes", "boxes that are known", total.Boxes)
	gauge("fleetd_boxes_online", "boxes that are online", total.Online)
	gauge("fleetd_boxes_at_risk", "boxes with a deadline in danger", total.AtRisk)
	gauge("fleetd_received_lan_bytes", "bytes that boxes report from their household", total.LAN)
	gauge("fleetd_received_peer_bytes", "bytes that boxes report from WAN peers", total.Peer)
	gauge("fleetd_received_origin_bytes", "bytes that boxes report from the origin", total.Origin)
	gauge("fleetd_catalog_version", "version of the published catalog", version)
	committed, refused := s.o.Fleet.Messages()
	fmt.Fprintf(&b, "# HELP fleetd_messages_total messages of boxes that were committed\n# TYPE fleetd_messages_total counter\n"+
		"fleetd_messages_total %d\n# HELP fleetd_messages_refused_total of those, how many made no sense\n"+
		"# TYPE fleetd_messages_refused_total counter\nfleetd_messages_refused_total %d\n", committed, refused)
	fmt.Fprintf(&b, "# HELP fleetd_origin_sent_bytes_total bytes of assets that this origin sent\n"+
		"# TYPE fleetd_origin_sent_bytes_total counter\nfleetd_origin_sent_bytes_total %d\n", sent)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
	return nil, nil
}
