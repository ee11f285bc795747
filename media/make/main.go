// Command make draws the demo clip: raw pictures on its standard output, a WAV file beside, which media/make.sh hands to
// ffmpeg. Everything is computed here, so the clip is the project's own and can be made again from this tree alone.
//
// What it shows is what boxd does: an asset crosses the line into the home once, to one box, and the others take it from
// there, until all three are full.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
)

const (
	width, height = 1280, 720
	framesPerSec  = 25
	seconds       = 24
)

func main() {
	wav := flag.String("wav", "", "where the sound goes")
	only := flag.Int("frame", -1, "draw this frame alone")
	flag.Parse()
	if err := run(*wav, *only); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

func run(wav string, only int) error {
	if wav != "" {
		if err := writeWAV(wav, compose()); err != nil {
			return err
		}
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	p := newPicture()
	for i := range framesPerSec * seconds {
		if only >= 0 && i != only {
			continue
		}
		scene(p, float64(i)/framesPerSec)
		if _, err := out.Write(p.bytes()); err != nil {
			return err
		}
	}
	return out.Flush()
}
