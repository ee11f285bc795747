// Package fetch measures what moving a GiB costs: CPU seconds, memory and bytes written, from one fast peer, from the
// origin and while seeding, beside aria2, transmission and libtorrent: `make bench-fetch`. The measuring code has the
// build tag bench.
package fetch
