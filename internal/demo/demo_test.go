package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// insideEnv marks the copy of the test program that runs in a network namespace of its own.
const insideEnv = "BOXD_DEMO_INSIDE"

// TestMain runs the tests in a fresh network namespace that has loopback and one interface with multicast, so that the
// boxes find each other by real mDNS and nothing reaches the machine's own network.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		if err := networkInside(); err != nil {
			fmt.Fprintln(os.Stderr, "demo test: network of the namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Getuid() != 0 {
		os.Exit(m.Run()) // the tests skip, which `make test` counts as a failure
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState != nil {
			os.Exit(cmd.ProcessState.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "demo test:", err)
		os.Exit(1)
	}
}

func networkInside() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// One end of a cable whose other end is in the same place: an interface with multicast and a carrier.
	home := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "home0"}, PeerName: "home1"}
	if err := netlink.LinkAdd(home); err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, 1), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(home, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetMulticastOn(home); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(home); err != nil {
		return err
	}
	other, err := netlink.LinkByName("home1")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(other); err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: home.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(224, 0, 0, 0), Mask: net.CIDRMask(4, 32)}}
	return netlink.RouteAdd(route)
}

// options builds the programs once and gives each test an empty directory.
func options(t *testing.T) Options {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root and some minutes")
	}
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make a network namespace")
	}
	bin := filepath.Join(os.TempDir(), fmt.Sprintf("boxd-demo-bin-%d", os.Getppid()))
	build := exec.Command("go", "build", "-trimpath", "-tags", "noboltdb,nosqlite", "-o", bin+"/", "./cmd/boxd", "./cmd/fleetd")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	media, err := filepath.Abs("../../media/demo.webm")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "boxd-") //nolint:usetesting // its long names are too long for the paths of unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Options{
		Boxd: filepath.Join(bin, "boxd"), Fleetd: filepath.Join(bin, "fleetd"), Media: media, Dir: dir,
		Deadline: 4 * time.Minute, Out: t.Output(),
	}
}

func start(t *testing.T, o Options) *Home {
	t.Helper()
	h, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Errorf("not everything ended as it should: %v", err)
		}
	})
	return h
}

func TestThreeBoxesOneCopy(t *testing.T) {
	h := start(t, options(t))
	r, err := h.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.Print(r)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	for _, b := range r.Boxes {
		if b.Peer != 0 {
			t.Errorf("%s says %d bytes came from WAN peers; all boxes are in one home", b.Name, b.Peer)
		}
	}
}

// Any process may be killed at any moment; started again, it goes on from what was verified.
func TestKilledAtRandomMoments(t *testing.T) {
	o := options(t)
	o.WANRate = 16 << 20
	o.BulkBytes = 128 << 20
	h := start(t, o)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	kills := 0
	for range 6 {
		wait(t.Context(), time.Duration(300+rnd.IntN(900))*time.Millisecond)
		victim := rnd.IntN(len(h.Boxes) + 1)
		if victim == len(h.Boxes) {
			h.Fleet.Kill()
			if err := h.Fleet.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			h.Boxes[victim].Kill()
			if err := h.Boxes[victim].Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		kills++
	}
	r, err := h.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The origin counts in memory, so a killed fleet manager forgets what it sent: the copies are judged elsewhere.
	for _, b := range h.Boxes {
		for _, f := range h.Films {
			sum, err := b.Fetch(t.Context(), f.ID, filepath.Base(f.Source))
			if err != nil || sum != f.SHA256 {
				t.Errorf("%s after %d kills: %s reads as %s, %v; published %s", b.Name, kills, f.Name, sum, err, f.SHA256)
			}
		}
	}
	for _, f := range r.Films {
		if f.Proofs != len(h.Boxes) {
			t.Errorf("%s: %d proofs of arrival, want %d", f.Name, f.Proofs, len(h.Boxes))
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
