package browsertest

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"io"
)

//go:embed axe/axe.min.js.gz
var axeGz []byte

// axeJS lists violations of WCAG 2.1 A and AA and of good practice, with where they are.
const axeJS = `axe.run(document, {
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'], resultTypes: ['violations'] }).then(r =>
  r.passes.length < 5 ? 'only ' + r.passes.length + ' rules looked' :
  r.violations.map(v => v.id + ': ' + v.nodes.slice(0, 4).map(n => n.target + ' ' + (n.any[0]?.message || '')).join('; ')).join('\n'))`

// Axe lets axe-core judge whether everybody can use the page as it is now; what is wrong fails the test under that name.
func (b *Browser) Axe(name string) {
	b.t.Helper()
	if b.axe == "" {
		z, err := gzip.NewReader(bytes.NewReader(axeGz))
		if err != nil {
			b.t.Fatal(err)
		}
		src, err := io.ReadAll(z)
		if err != nil {
			b.t.Fatal(err)
		}
		b.axe = string(src)
	}
	Eval[bool](b, b.axe+"\n;true")
	if bad := Eval[string](b, axeJS); bad != "" {
		b.t.Errorf("%s:\n%s", name, bad)
	}
	if Eval[bool](b, `document.documentElement.scrollWidth > innerWidth`) {
		b.t.Errorf("%s: the page scrolls sideways", name)
	}
}
