package api

import (
	"context"
	"embed"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"boxd/internal/fleet/registry"
	"boxd/internal/fleet/repo"
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
	if err := s.expiries(&b); err != nil {
		return nil, err
	}
	if err := s.alertCounts(r.Context(), &b); err != nil {
		return nil, err
	}
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

// expiries says when the signature of each role of the catalog ends; of all publishers' roles, which may be many, the first.
func (s *server) expiries(b *strings.Builder) error {
	roles, err := s.o.Fleet.CatalogRoles()
	if err != nil {
		return err
	}
	at := map[string]int64{}
	for _, r := range roles {
		name := r.Role
		if strings.HasPrefix(name, repo.PublisherRole("")) {
			name = "publishers"
		}
		if was, there := at[name]; r.Version > 0 && (!there || r.Expires.Unix() < was) {
			at[name] = r.Expires.Unix()
		}
	}
	b.WriteString("# HELP fleetd_catalog_expiry_timestamp_seconds when the signature of a role of the catalog ends\n" +
		"# TYPE fleetd_catalog_expiry_timestamp_seconds gauge\n")
	for _, name := range slices.Sorted(maps.Keys(at)) {
		fmt.Fprintf(b, "fleetd_catalog_expiry_timestamp_seconds{role=%q} %d\n", name, at[name])
	}
	return nil
}

// alertCounts counts the alerts that are raised: those of boxes, and those of the fleet itself.
func (s *server) alertCounts(ctx context.Context, b *strings.Builder) error {
	n, err := s.o.Fleet.Registry().CountAlerts(ctx)
	if err != nil {
		return err
	}
	b.WriteString("# HELP fleetd_alerts alerts that are raised, by severity, about boxes or about the fleet itself\n" +
		"# TYPE fleetd_alerts gauge\n")
	for _, about := range []string{"box", "fleet"} {
		for _, severity := range []string{"critical", "warning", "info"} {
			fmt.Fprintf(b, "fleetd_alerts{about=%q,severity=%q} %d\n", about, severity, n[registry.AlertKind{
				Fleet: about == "fleet", Severity: severity,
			}])
		}
	}
	return nil
}
