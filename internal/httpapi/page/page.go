// Package page holds the box's status page as files: httpapi serves them on the box, and the fleet's dashboard draws a box
// with the same pictures. It is files and nothing else.
package page

import "embed"

// Files are the page's script, style and pictures.
//
//go:embed *.js *.css *.svg
var Files embed.FS
