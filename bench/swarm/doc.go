// Package swarm measures what a swarm of homes takes from the origin, beside stock clients: `make bench-swarm`. The
// measuring code has the build tag bench, because it takes minutes and needs root.
package swarm
