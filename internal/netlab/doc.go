//go:build !linux

// Package netlab builds homes out of network namespaces; there are none but on Linux.
package netlab
