package main

import "math"

var (
	night  = colour{0.035, 0.050, 0.110}
	dusk   = colour{0.070, 0.110, 0.205}
	paper  = colour{0.930, 0.950, 0.980}
	teal   = colour{0.180, 0.780, 0.720}
	amber  = colour{0.980, 0.720, 0.320}
	violet = colour{0.520, 0.430, 0.900}
	slate  = colour{0.300, 0.370, 0.500}
)

// Where things stand, in pixels.
const (
	originX, originY = 220.0, 400.0
	doorX            = 660.0
	houseX, houseY   = 900.0, 430.0
	boxSize          = 92.0
)

// boxes are the three of the home; the first is the courier.
var boxes = [3][2]float64{{775, 440}, {925, 350}, {925, 520}}

// ease goes from 0 to 1 while t goes from a to b, slowly at both ends.
func ease(t, a, b float64) float64 {
	f := min(max((t-a)/(b-a), 0), 1)
	return f * f * (3 - 2*f)
}

func scene(p *picture, t float64) {
	background(p, t)
	story := ease(t, 4.2, 5.6) * (1 - ease(t, 20.4, 21.6))
	if story > 0.001 {
		home(p, t, story)
		flow(p, t, story)
	}
	opening := ease(t, 0.4, 1.8) * (1 - ease(t, 3.6, 4.6))
	closing := ease(t, 21.0, 22.2) * (1 - ease(t, 23.3, 23.95))
	if a := max(opening, closing); a > 0.001 {
		p.word(width/2, height/2+20, 300+6*math.Sin(t*0.9), paper, a)
		p.line(width/2-210*a, height/2+170, width/2+210*a, height/2+170, 4, teal, a, 10)
	}
	timeline(p, t)
}

// background is night with two slow lights, computed coarsely: it is smooth.
func background(p *picture, t float64) {
	const cell = 8
	lights := []struct {
		x, y, r, strength float64
		c                 colour
	}{
		{300 + 160*math.Sin(t*0.21), 180 + 60*math.Cos(t*0.17), 360, 0.16, violet},
		{980 + 140*math.Cos(t*0.19), 560 + 70*math.Sin(t*0.23), 400, 0.14, teal},
	}
	at := func(x, y float64) colour {
		c := mix(night, dusk, y/height)
		for _, l := range lights {
			d := math.Hypot(x-l.x, y-l.y) / l.r
			f := l.strength * math.Exp(-d*d)
			c = colour{c[0] + l.c[0]*f, c[1] + l.c[1]*f, c[2] + l.c[2]*f}
		}
		return c
	}
	for y0 := 0; y0 < height; y0 += cell {
		for x0 := 0; x0 < width; x0 += cell {
			a, b := at(float64(x0), float64(y0)), at(float64(x0+cell), float64(y0))
			c, d := at(float64(x0), float64(y0+cell)), at(float64(x0+cell), float64(y0+cell))
			for y := range cell {
				left, right := mix(a, c, float64(y)/cell), mix(b, d, float64(y)/cell)
				for x := range cell {
					p.px[(y0+y)*width+x0+x] = mix(left, right, float64(x)/cell)
				}
			}
		}
	}
}

// home draws the origin, the access line, the house and its boxes with what they hold.
func home(p *picture, t, a float64) {
	p.line(originX+70, originY+40, doorX, originY+40, 3, slate, 0.8*a, 0)
	p.disc(originX, originY+40, 46, mix(dusk, violet, 0.35), a, 0)
	p.ring(originX, originY+40, 46, 4, violet, a, 12)
	for i := range 3 { // shelves of an archive
		y := originY + 24 + 16*float64(i)
		p.line(originX-18, y, originX+18, y, 5, paper, 0.85*a, 0)
	}

	wall, roof := houseY+175.0, houseY-165.0
	left, right := houseX-240.0, houseX+240.0
	p.line(left, wall, right, wall, 5, paper, 0.75*a, 0)
	p.line(left, roof+40, left, wall, 5, paper, 0.75*a, 0)
	p.line(right, roof+40, right, wall, 5, paper, 0.75*a, 0)
	p.line(left-30, roof+58, houseX, roof-75, 5, paper, 0.75*a, 6)
	p.line(right+30, roof+58, houseX, roof-75, 5, paper, 0.75*a, 6)

	for i, b := range boxes {
		full := held(i, t)
		c := teal
		if i == 0 {
			c = amber
		}
		pulse := 0.0
		if full >= 1 {
			pulse = 9 + 4*math.Sin(t*3+float64(i))
		}
		p.box(b[0], b[1], boxSize, boxSize, 18, -1, mix(night, dusk, 0.6), 0.9*a, 0)
		if full > 0 {
			p.level(b[0], b[1], boxSize-14, boxSize-14, 12, full, t*2.2+float64(i), mix(dusk, c, 0.85*a))
		}
		p.box(b[0], b[1], boxSize, boxSize, 18, 4, c, a, pulse)
	}
}

// held is the part of the asset that box i has at time t: the courier is ahead, the others follow close behind.
func held(i int, t float64) float64 {
	start := []float64{6.4, 7.6, 8.4}[i]
	return ease(t, start, start+11)
}

// flow draws the pieces under way: over the line to the courier, and from it to the others.
func flow(p *picture, t, a float64) {
	for k := range 70 {
		sent := 5.9 + 0.17*float64(k)
		along(p, t-sent, 1.15, a, amber, originX+50, originY+40, boxes[0][0]-boxSize/2, boxes[0][1], 0)
		for i := 1; i < 3; i++ {
			bend := []float64{0, -34, 34}[i]
			along(p, t-sent-1.25-0.06*float64(i), 0.8, a, teal,
				boxes[0][0]+boxSize/2, boxes[0][1], boxes[i][0]-boxSize/2, boxes[i][1], bend)
		}
	}
}

// along draws one piece that takes d seconds from one point to the other on a bent way.
func along(p *picture, t, d, a float64, c colour, x0, y0, x1, y1, bend float64) {
	if t <= 0 || t >= d {
		return
	}
	f := t / d
	x := x0 + (x1-x0)*f
	y := y0 + (y1-y0)*(f*f*(3-2*f)) + bend*math.Sin(math.Pi*f)*0.4
	p.disc(x, y, 5, c, a*min(1, 6*f, 6*(1-f)), 7)
}

// timeline is a thin bar with a mark per second, which shows where in the clip a picture is from.
func timeline(p *picture, t float64) {
	const left, right, y = 140.0, width - 140.0, height - 46.0
	p.line(left, y, right, y, 2, slate, 0.55, 0)
	for s := 0; s <= seconds; s++ {
		x, r := left+(right-left)*float64(s)/seconds, 2.0
		if s%4 == 0 {
			r = 3.5
		}
		p.disc(x, y, r, slate, 0.9, 0)
	}
	x := left + (right-left)*t/seconds
	p.line(left, y, max(x, left+0.1), y, 3, teal, 0.9, 0)
	p.disc(x, y, 7, paper, 1, 6)
}
