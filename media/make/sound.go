package main

import (
	"encoding/binary"
	"math"
	"os"
)

const sampleRate = 48000

// chords of four seconds each, as semitones above A2: a slow turn that ends where it began.
var chords = [][]int{
	{0, 7, 12, 15, 22}, {-4, 8, 12, 15, 19}, {3, 10, 15, 19, 26}, {-2, 10, 14, 17, 21}, {-4, 8, 12, 19, 24}, {0, 7, 12, 16, 23},
}

// bells is the melody over each chord: indexes into it, two notes a second, -1 is a rest.
var bells = []int{2, 3, 4, 3, -1, 4, 3, 2}

func pitch(semitones int) float64 { return 110 * math.Pow(2, float64(semitones)/12) }

// compose makes the sound: a pad that swells, bells over it, an echo that crosses the sides, fades at both ends.
func compose() [2][]float64 {
	n := sampleRate * seconds
	sides := [2][]float64{make([]float64, n), make([]float64, n)}
	for i, chord := range chords {
		start := float64(i) * 4
		for j, note := range chord {
			pad(sides, start, pitch(note), 0.040, float64(j)/4)
		}
		for j, index := range bells {
			if index >= 0 {
				bell(sides, start+float64(j)/2, pitch(chord[index]+12), 0.10, 0.25+0.5*float64(j%2))
			}
		}
	}
	echo(sides, 0.375, 0.34)
	for s := range sides {
		for i := range sides[s] {
			t := float64(i) / sampleRate
			sides[s][i] *= min(1, t/1.2) * min(1, (seconds-t)/2.0)
		}
	}
	return sides
}

func add(sides [2][]float64, start, length, pan float64, f func(t float64) float64) {
	from := int(start * sampleRate)
	for i := 0; i < int(length*sampleRate) && from+i < len(sides[0]); i++ {
		v := f(float64(i) / sampleRate)
		sides[0][from+i] += v * math.Sqrt(1-pan)
		sides[1][from+i] += v * math.Sqrt(pan)
	}
}

func pad(sides [2][]float64, start, hz, gain, pan float64) {
	add(sides, start, 5, pan, func(t float64) float64 {
		swell := min(1, t/1.4) * min(1, (5-t)/1.6)
		w := 2 * math.Pi * hz * t
		return gain * swell * (math.Sin(w) + 0.5*math.Sin(w*1.003) + 0.22*math.Sin(2*w) + 0.08*math.Sin(3*w))
	})
}

func bell(sides [2][]float64, start, hz, gain, pan float64) {
	add(sides, start, 2.4, pan, func(t float64) float64 {
		w := 2 * math.Pi * hz * t
		return gain * min(1, t/0.006) * math.Exp(-2.6*t) * (math.Sin(w) + 0.28*math.Exp(-5*t)*math.Sin(2.01*w))
	})
}

func echo(sides [2][]float64, delay, feedback float64) {
	d := int(delay * sampleRate)
	for i := d; i < len(sides[0]); i++ {
		l, r := sides[0][i-d], sides[1][i-d]
		sides[0][i] += feedback * r
		sides[1][i] += feedback * l
	}
}

func writeWAV(name string, sides [2][]float64) error {
	data := make([]byte, 0, 44+4*len(sides[0]))
	u32, u16 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint16
	size := uint32(4 * len(sides[0]))
	data = u32(append(data, "RIFF"...), 36+size)
	data = u16(u16(u32(append(data, "WAVEfmt "...), 16), 1), 2)
	data = u16(u16(u32(u32(data, sampleRate), sampleRate*4), 4), 16)
	data = u32(append(data, "data"...), size)
	for i := range sides[0] {
		for s := range sides {
			data = u16(data, uint16(int16(32000*math.Tanh(sides[s][i]))))
		}
	}
	return os.WriteFile(name, data, 0o644)
}
