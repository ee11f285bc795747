// Package demo runs the main job with real processes on one machine: a fleet manager in an empty directory and a few
// boxes of one home, a film that is published, scheduled, fetched, verified and played. `make demo` shows it to people;
// the tests run the same thing and judge it.
//
// Invariants: nothing is faked, the processes are the programs that are shipped, configured as an operator would; every
// process that was started is stopped before Run returns; nothing is written outside the directory that was given.
package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Options says what to run. Zero values of the numbers are replaced by those in brackets.
type Options struct {
	Boxd, Fleetd string        // the programs
	Dir          string        // an empty directory for everything
	Media        string        // the film
	Boxes        int           // in the home [3]
	BulkBytes    int64         // of a generated file beside the film [256 MiB]; negative: none
	WANRate      int64         // bytes per second that a box may take over the access line [32 MiB/s]
	Deadline     time.Duration // how long the whole may take [5 min]
	NoCampaign   bool          // start the fleet manager and the boxes, and leave publishing to whoever asks for this
	Static       bool          // name the neighbours in the configuration even where mDNS could find them
	// Brokers starts MQTT brokers in place of the fleet manager's own, and returns their addresses. [none]
	Brokers func(*Fleet) ([]string, error)
	Out     io.Writer
	Live    bool // Out is a terminal: draw over the last lines
}

func (o *Options) setDefaults() {
	if o.Boxes <= 0 {
		o.Boxes = 3
	}
	if o.BulkBytes == 0 {
		o.BulkBytes = 256 << 20
	}
	if o.WANRate <= 0 {
		o.WANRate = 32 << 20
	}
	if o.Deadline <= 0 {
		o.Deadline = 5 * time.Minute
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
}

// Film is something that was published.
type Film struct {
	Published
	Source string // path of the file that was published
	SHA256 string // of its bytes, in hexadecimal
}

// Home is a running demonstration.
type Home struct {
	Options
	Fleet *Fleet
	Boxes []*Box
	Films []Film
	Began time.Time // when the campaign was made

	brokers []string
}

// Start brings up the fleet manager and the boxes, publishes the media and makes the campaign.
func Start(ctx context.Context, o Options) (h *Home, err error) {
	o.setDefaults()
	h = &Home{Options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Stop())
		}
	}()
	h.say("Starting a fleet manager in an empty directory …")
	if h.Fleet, err = startFleet(ctx, o); err != nil {
		return h, err
	}
	h.brokers = []string{h.Fleet.Broker()}
	if o.Brokers != nil {
		if h.brokers, err = o.Brokers(h.Fleet); err != nil {
			return h, err
		}
	}
	h.say("Starting %d boxes; each makes its key, enrols and looks for the others …", o.Boxes)
	if err := h.startBoxes(ctx); err != nil {
		return h, err
	}
	if o.NoCampaign {
		return h, nil
	}
	if err := h.publish(ctx); err != nil {
		return h, err
	}
	ids := make([]string, len(h.Films))
	for i, f := range h.Films {
		ids[i] = f.ID
	}
	h.Began = time.Now()
	if err := h.Fleet.Campaign(ctx, "Tonight", ids); err != nil {
		return h, err
	}
	h.say("Scheduled for the group \"default\". Watch it arrive:\n")
	return h, nil
}

func (h *Home) say(format string, args ...any) { fmt.Fprintf(h.Out, format+"\n", args...) }

func (h *Home) startBoxes(ctx context.Context) error {
	ports := make([]int, 2*h.Options.Boxes)
	if err := freePorts(ports); err != nil {
		return err
	}
	static := h.Static || !multicast()
	if static {
		h.say("(The boxes are told of each other: no interface with multicast is used.)")
	}
	for i := range h.Options.Boxes {
		b := &Box{Name: fmt.Sprintf("box%d", i+1), dir: filepath.Join(h.Dir, fmt.Sprintf("b%d", i+1)), program: h.Boxd}
		b.swarmPort, b.httpPort = ports[2*i], ports[2*i+1]
		for j := range h.Options.Boxes {
			if static && j != i {
				b.static = append(b.static, fmt.Sprintf("127.0.0.1:%d", ports[2*j]))
			}
		}
		h.Boxes = append(h.Boxes, b)
		if err := b.configure(h); err != nil {
			return err
		}
		if err := b.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (h *Home) publish(ctx context.Context) error {
	sources := []string{h.Media}
	if h.BulkBytes > 0 {
		bulk := filepath.Join(h.Dir, "tomorrow.bin")
		if err := generate(bulk, h.BulkBytes); err != nil {
			return err
		}
		sources = append(sources, bulk)
	}
	for _, src := range sources {
		sum, err := fileSHA256(src)
		if err != nil {
			return fmt.Errorf("media: %w", err)
		}
		p, err := h.Fleet.Publish(ctx, src)
		if err != nil {
			return err
		}
		h.Films = append(h.Films, Film{Published: p, Source: src, SHA256: sum})
		h.say("Published %s (%s) as %s", filepath.Base(src), size(p.Length), p.ID[:8])
	}
	return nil
}

// Stop ends every process, boxes first, and waits for them. It says which did not end as they should.
func (h *Home) Stop() error {
	for _, b := range h.Boxes {
		b.signalStop()
	}
	var errs []error
	for _, b := range h.Boxes {
		errs = append(errs, b.Stop())
	}
	if h.Fleet != nil {
		errs = append(errs, h.Fleet.Stop())
	}
	return errors.Join(errs...)
}

// generate writes a file of pseudo-random bytes that are the same every time, so that no disk or line can compress it.
func generate(name string, n int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	src := rand.NewChaCha8([32]byte{'b', 'o', 'x', 'd'})
	if _, err := io.CopyN(f, src, n); err != nil {
		return fmt.Errorf("generate %s: %w", name, err)
	}
	return f.Close()
}

func fileSHA256(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readerSHA256(f)
}

func readerSHA256(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
