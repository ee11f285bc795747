// Package home is the whole-home tests: boxd and fleetd as an operator would run them, in network namespaces, behind NAT
// and a shaped access line that counts every byte; see docs/home.md.
//
// Invariants: nothing here asks a box how much crossed the line, the line is asked; every ratio is to one curl download
// of as many bytes over TLS on the same line in the same run.
package home
