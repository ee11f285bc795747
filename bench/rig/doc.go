// Package rig is what the benches of fetching share: an operator's side in the WAN of a lab, and boxd's fetching half in a
// home. Its code has the build tag bench.
package rig
