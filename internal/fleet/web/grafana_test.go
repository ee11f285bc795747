package web_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestGrafanaAsksForMetricsThatAreThere compares the dashboard in deploy/grafana and the alert rules in deploy/prometheus with
// what fleetd says of itself at /metrics and with the table of what a box says.
func TestGrafanaAsksForMetricsThatAreThere(t *testing.T) {
	f := startFleet(t)
	status, text := f.call("GET", "/metrics", "", nil)
	if status != http.StatusOK {
		t.Fatal(status)
	}
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+?)(?:_bucket|_sum|_count)?(?:\{.*\})? [0-9.eE+-]+$`).FindAllSubmatch(text, -1) {
		if !regexp.MustCompile(`(?m)^# HELP ` + string(m[1]) + `(_count|_sum)? \S.{8,}\.?$`).Match(text) {
			t.Errorf("%s has no HELP", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\w+) `).FindAllSubmatch(text, -1) {
		have[string(m[1])] = true
	}
	code, err := os.ReadFile("../../httpapi/metrics.go")
	must(t, err)
	for _, m := range regexp.MustCompile(`\{"(boxd_\w+)", "`).FindAllSubmatch(code, -1) {
		have[string(m[1])] = true
	}
	if len(have) < 15 {
		t.Fatalf("only %d metrics were found", len(have))
	}
	data, err := os.ReadFile("../../../deploy/grafana/boxd-fleet.json")
	must(t, err)
	var board struct {
		Panels []struct {
			ID      int    `json:"id"`
			Title   string `json:"title"`
			Type    string `json:"type"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	must(t, json.Unmarshal(data, &board))
	var ids []int
	asked := 0
	for _, p := range board.Panels {
		if slices.Contains(ids, p.ID) {
			t.Errorf("panel id %d twice", p.ID)
		}
		ids = append(ids, p.ID)
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`\b(?:boxd|fleetd)_\w+`).FindAllString(target.Expr, -1) {
				asked++
				if !have[name] {
					t.Errorf("%s: there is no metric %s", p.Title, name)
				}
			}
		}
	}
	rules, err := os.ReadFile("../../../deploy/prometheus/boxd-fleet.rules.yaml")
	must(t, err)
	exprs := regexp.MustCompile(`(?m)^        expr: (.+)$`).FindAllSubmatch(rules, -1)
	if len(exprs) < 5 {
		t.Errorf("%d rules were found", len(exprs))
	}
	for _, m := range exprs {
		for _, name := range regexp.MustCompile(`\b(?:boxd|fleetd)_\w+`).FindAllString(string(m[1]), -1) {
			if !have[name] {
				t.Errorf("%s: there is no metric %s", m[1], name)
			}
		}
	}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp", "publishers"} {
		if !regexp.MustCompile(`(?m)^fleetd_catalog_expiry_timestamp_seconds\{role="` + role + `"\} \d{10}$`).Match(text) {
			t.Errorf("nothing says when the role %s expires", role)
		}
	}
	if asked < 15 {
		t.Errorf("only %d names were looked at", asked)
	}
}
