// Package envpprof stands in for github.com/anacrolix/envpprof, which serves profiles when an environment variable says so
// and registers them on http.DefaultServeMux in any case. A box has neither. Nothing but its import is used. See
// docs/adr/0005-stand-ins-for-the-box.md.
package envpprof
