// Package viewer measures what a download costs the other people in the home: `make bench-viewer`. The measuring code
// has the build tag bench, because it takes minutes and needs root.
package viewer
