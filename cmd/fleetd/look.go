package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"boxd/internal/cli"
)

// list prints a list of the API as a table, or as it is with --json. A column is "HEAD=field"; without one that is there
// for any row the table has no such column.
func (c *client) list(cmd *cobra.Command, path, none string, columns ...string) error {
	if c.json {
		return c.print(cmd, path)
	}
	var rows []map[string]any
	if err := c.call(cmd.Context(), http.MethodGet, path, nil, &rows); err != nil {
		return err
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), none)
		return err
	}
	var t cli.Table
	var fields []string
	for _, col := range columns {
		head, field, _ := strings.Cut(col, "=")
		if slices.ContainsFunc(rows, func(r map[string]any) bool { return words(field, r[field]) != "" }) {
			t.Head, fields = append(t.Head, head), append(fields, field)
		}
	}
	for _, r := range rows {
		cells := make([]string, len(fields))
		for i, f := range fields {
			cells[i] = words(f, r[f])
		}
		t.Add(cells...)
	}
	t.Print(cmd.OutOrStdout())
	return nil
}

// one prints a document of the API as lines of a name and a value, or as it is with --json.
func (c *client) one(cmd *cobra.Command, path string) error {
	if c.json {
		return c.print(cmd, path)
	}
	var doc map[string]any
	if err := c.call(cmd.Context(), http.MethodGet, path, nil, &doc); err != nil {
		return err
	}
	var p cli.Page
	lines(&p, "", doc)
	_, err := fmt.Fprint(cmd.OutOrStdout(), p.String())
	return err
}

func lines(p *cli.Page, indent string, doc map[string]any) {
	names := make([]string, 0, len(doc))
	width := 0
	for name := range doc {
		names = append(names, name)
		width = max(width, len(name))
	}
	slices.Sort(names)
	var deep []string
	for _, name := range names {
		if _, nested := doc[name].(map[string]any); nested || isRows(doc[name]) {
			deep = append(deep, name)
		} else if text := words(name, doc[name]); text != "" {
			p.Line("%s%-*s  %s", indent, width, label(name), text)
		}
	}
	for _, name := range deep {
		p.Line("%s%s", indent, label(name))
		switch v := doc[name].(type) {
		case map[string]any:
			lines(p, indent+"  ", v)
		case []any:
			for i, x := range v {
				if i > 0 {
					p.Line("")
				}
				row, _ := x.(map[string]any)
				lines(p, indent+"  ", row)
			}
		}
	}
}

func isRows(v any) bool {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return false
	}
	_, ok = list[0].(map[string]any)
	return ok
}

func label(field string) string { return strings.ReplaceAll(cli.Plain(field), "_", " ") }

// sizes are the fields that hold bytes.
var sizes = []string{
	"lan", "peer", "origin", "length", "size", "quota", "quota_bytes",
	"disk_used", "disk_quota", "disk_free", "used", "free", "reserve",
}

// words is a value of a document for people; empty when there is nothing to say.
func words(field string, v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			return cli.Clock(at, time.Now())
		}
		return cli.Plain(v)
	case float64:
		if slices.Contains(sizes, field) {
			return cli.Bytes(int64(v))
		}
		return strings.TrimSuffix(fmt.Sprintf("%.3f", v), ".000")
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = words("", x)
		}
		return strings.Join(parts, ", ")
	}
	var b bytes.Buffer
	if json.NewEncoder(&b).Encode(v) != nil {
		return ""
	}
	return cli.Plain(strings.TrimSpace(b.String()))
}
