package main

import "math"

// colour is linear enough for this: red, green and blue from 0 to 1.
type colour [3]float64

func mix(a, b colour, f float64) colour {
	return colour{a[0] + (b[0]-a[0])*f, a[1] + (b[1]-a[1])*f, a[2] + (b[2]-a[2])*f}
}

// picture is one frame.
type picture struct {
	px  []colour
	raw []byte
}

func newPicture() *picture {
	return &picture{px: make([]colour, width*height), raw: make([]byte, 3*width*height)}
}

// bytes is the frame as RGB24, with ordered dithering, so that the dark gradients do not show bands.
func (p *picture) bytes() []byte {
	dither := [4][4]float64{{0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}}
	for i, c := range p.px {
		d := (dither[i/width%4][i%width%4] + 0.5) / 16
		for k := range 3 {
			p.raw[3*i+k] = byte(min(max(c[k]*255+d, 0), 255))
		}
	}
	return p.raw
}

// shape is a signed distance in pixels: negative inside.
type shape func(x, y float64) float64

// fill paints the inside of a shape, within the box around it, with a soft glow of the given reach outside.
func (p *picture) fill(s shape, x0, y0, x1, y1 float64, c colour, alpha, glow float64) {
	margin := 2 + 3*glow
	for y := max(0, int(y0-margin)); y < min(height, int(y1+margin)+1); y++ {
		for x := max(0, int(x0-margin)); x < min(width, int(x1+margin)+1); x++ {
			d := s(float64(x)+0.5, float64(y)+0.5)
			a := min(max(0.5-d, 0), 1) * alpha
			px := &p.px[y*width+x]
			if glow > 0 && d > 0 {
				light := 0.28 * alpha * math.Exp(-d*d/(2*glow*glow))
				for k := range 3 {
					px[k] += c[k] * light
				}
			}
			if a > 0 {
				*px = mix(*px, c, a)
			}
		}
	}
}

func (p *picture) disc(x, y, r float64, c colour, alpha, glow float64) {
	p.fill(func(px, py float64) float64 { return math.Hypot(px-x, py-y) - r }, x-r, y-r, x+r, y+r, c, alpha, glow)
}

func (p *picture) ring(x, y, r, w float64, c colour, alpha, glow float64) {
	s := func(px, py float64) float64 { return math.Abs(math.Hypot(px-x, py-y)-r) - w/2 }
	p.fill(s, x-r-w, y-r-w, x+r+w, y+r+w, c, alpha, glow)
}

func (p *picture) line(x0, y0, x1, y1, w float64, c colour, alpha, glow float64) {
	dx, dy := x1-x0, y1-y0
	s := func(px, py float64) float64 {
		t := min(max(((px-x0)*dx+(py-y0)*dy)/(dx*dx+dy*dy), 0), 1)
		return math.Hypot(px-x0-t*dx, py-y0-t*dy) - w/2
	}
	p.fill(s, min(x0, x1)-w, min(y0, y1)-w, max(x0, x1)+w, max(y0, y1)+w, c, alpha, glow)
}

// box is a rounded rectangle around (x, y); inset < 0 fills it, inset > 0 draws a line of that width along its edge.
func (p *picture) box(x, y, w, h, r, inset float64, c colour, alpha, glow float64) {
	s := roundBox(x, y, w, h, r)
	if inset > 0 {
		whole := s
		s = func(px, py float64) float64 { return math.Abs(whole(px, py)) - inset/2 }
	}
	p.fill(s, x-w/2-inset, y-h/2-inset, x+w/2+inset, y+h/2+inset, c, alpha, glow)
}

func roundBox(x, y, w, h, r float64) shape {
	return func(px, py float64) float64 {
		qx, qy := math.Abs(px-x)-w/2+r, math.Abs(py-y)-h/2+r
		return math.Hypot(max(qx, 0), max(qy, 0)) + min(max(qx, qy), 0) - r
	}
}

// level fills a rounded box up to a fraction of its height, with a gentle wave on top.
func (p *picture) level(x, y, w, h, r, part, phase float64, c colour) {
	whole, top := roundBox(x, y, w, h, r), y+h/2-part*h
	s := func(px, py float64) float64 {
		wave := 2.5 * math.Sin(px/11+phase) * min(1, 8*part*(1-part))
		return max(whole(px, py), top+wave-py)
	}
	p.fill(s, x-w/2, y-h/2, x+w/2, y+h/2, c, 1, 0)
}

// word draws "boxd" as one shape: a bar and a ring, a ring, a cross, a ring and a bar.
func (p *picture) word(x, y, size float64, c colour, alpha float64) {
	r, w := size*0.25, size*0.085
	step := 2*r + size*0.20
	x -= 1.5 * step
	bar := func(x0, y0, x1, y1 float64) shape {
		dx, dy := x1-x0, y1-y0
		return func(px, py float64) float64 {
			t := min(max(((px-x0)*dx+(py-y0)*dy)/(dx*dx+dy*dy), 0), 1)
			return math.Hypot(px-x0-t*dx, py-y0-t*dy) - w/2
		}
	}
	loop := func(x0 float64) shape {
		return func(px, py float64) float64 { return math.Abs(math.Hypot(px-x0, py-y)-r) - w/2 }
	}
	cx := x + 2*step
	strokes := []shape{
		bar(x-r, y-2.9*r, x-r, y+r), loop(x), loop(x + step),
		bar(cx-0.85*r, y-r, cx+0.85*r, y+r), bar(cx-0.85*r, y+r, cx+0.85*r, y-r),
		loop(x + 3*step), bar(x+3*step+r, y-2.9*r, x+3*step+r, y+r),
	}
	word := func(px, py float64) float64 {
		d := math.Inf(1)
		for _, s := range strokes {
			d = min(d, s(px, py))
		}
		return d
	}
	p.fill(word, x-r-w, y-2.9*r-w, x+3*step+r+w, y+r+w, c, alpha, size*0.06)
}
