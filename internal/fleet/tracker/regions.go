package tracker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Bounds of the operator's list.
const (
	maxRegions     = 1 << 20  // lines
	maxRegionBytes = 64 << 20 // of the file
)

// Regions is the operator's list of which addresses are near each other: one prefix and the name of its region on a line,
// "203.0.113.0/24 north", with comments from '#' on. The longest prefix that holds an address decides.
type Regions struct {
	path  string
	log   *slog.Logger
	table atomic.Pointer[regionTable]
	seen  fileState // Run's
}

type regionTable struct {
	names   map[netip.Prefix]string
	v4, v6  []int // lengths that occur, longest first
	regions int
}

type fileState struct {
	size int64
	at   time.Time
}

// OpenRegions reads the list. A file with faults is refused with all of them.
func OpenRegions(path string, log *slog.Logger) (*Regions, error) {
	r := &Regions{path: path, log: log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r, r.read()
}

// Of names the region of an address; "" when the list has none.
func (r *Regions) Of(a netip.Addr) string {
	t := r.table.Load()
	a = a.Unmap()
	lengths := t.v6
	if a.Is4() {
		lengths = t.v4
	}
	for _, n := range lengths {
		p, err := a.Prefix(n)
		if err != nil {
			return ""
		}
		if name, ok := t.names[p]; ok {
			return name
		}
	}
	return ""
}

// Run reads the list again when its file has changed, until ctx ends. A list with faults changes nothing.
func (r *Regions) Run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.look()
		}
	}
}

// look reads the list again if its file has changed.
func (r *Regions) look() {
	st, err := os.Stat(r.path)
	if err == nil && (fileState{st.Size(), st.ModTime()}) == r.seen {
		return
	}
	if err = r.read(); err != nil {
		r.log.Warn("the list of regions was not read again; the old one goes on", "err", err)
	}
}

func (r *Regions) read() error {
	st, err := os.Stat(r.path)
	if err != nil {
		r.seen = fileState{}
		return fmt.Errorf("regions: %w", err)
	}
	r.seen = fileState{st.Size(), st.ModTime()}
	if st.Size() > maxRegionBytes {
		return fmt.Errorf("regions: %s has more than %d bytes", r.path, maxRegionBytes)
	}
	b, err := os.ReadFile(r.path)
	if err != nil {
		return fmt.Errorf("regions: %w", err)
	}
	t, err := parseRegions(b)
	if err != nil {
		return fmt.Errorf("regions: %s: %w", r.path, err)
	}
	r.table.Store(t)
	r.log.Info("regions read", "prefixes", len(t.names), "regions", t.regions)
	return nil
}

// parseRegions reads a list and names its first faults.
func parseRegions(b []byte) (*regionTable, error) {
	t := &regionTable{names: map[netip.Prefix]string{}}
	names, v4, v6 := map[string]bool{}, map[int]bool{}, map[int]bool{}
	var errs []error
	in := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; in.Scan() && len(errs) < 10; n++ {
		text, _, _ := strings.Cut(in.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		p, name, err := parseRegion(f)
		if err == nil && t.names[p] != "" && t.names[p] != name {
			err = fmt.Errorf("%s is in %s already", p, t.names[p])
		}
		if err == nil && len(t.names) >= maxRegions {
			err = fmt.Errorf("more than %d prefixes", maxRegions)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		t.names[p], names[name] = name, true
		if p.Addr().Is4() {
			v4[p.Bits()] = true
		} else {
			v6[p.Bits()] = true
		}
	}
	if err := errors.Join(append(errs, in.Err())...); err != nil {
		return nil, err
	}
	t.v4, t.v6, t.regions = longestFirst(v4), longestFirst(v6), len(names)
	return t, nil
}

func parseRegion(f []string) (netip.Prefix, string, error) {
	if len(f) != 2 {
		return netip.Prefix{}, "", errors.New("want a prefix and a name, as in 203.0.113.0/24 north")
	}
	p, err := netip.ParsePrefix(f[0])
	if a, err1 := netip.ParseAddr(f[0]); err != nil && err1 == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return p, "", fmt.Errorf("%.60q is no prefix", f[0])
	case p != p.Masked():
		return p, "", fmt.Errorf("%s has bits beyond its length: %s?", p, p.Masked())
	case p.Addr().Is4In6() || p.Addr().Zone() != "":
		return p, "", fmt.Errorf("%s is no plain prefix", p)
	case len(f[1]) > 64:
		return p, "", errors.New("a name of more than 64 bytes")
	}
	return p, f[1], nil
}

func longestFirst(set map[int]bool) []int {
	var list []int
	for n := range set {
		list = append(list, n)
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list
}
