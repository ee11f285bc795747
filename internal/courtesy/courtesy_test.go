package courtesy

import (
	"context"
	"fmt"
	"io/fs"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"boxd/internal/health"
)

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }

func TestHeatFollowsTripPointsWithHysteresis(t *testing.T) {
	sys := fstest.MapFS{
		"cooling_device0/type":              file("Processor"),
		"thermal_zone0/temp":                file("41000"),
		"thermal_zone1/temp":                file("60000"),
		"thermal_zone1/trip_point_0_type":   file("passive"),
		"thermal_zone1/trip_point_0_temp":   file("80000"),
		"thermal_zone1/trip_point_1_type":   file("critical"),
		"thermal_zone1/trip_point_1_temp":   file("105000"),
		"thermal_zone2/temp":                file("-274000"), // asleep
		"thermal_zone3/temp":                file("not a number"),
		"thermal_zone4/mode":                file("disabled"),
		"thermal_zone4/temp":                file("150000"),
		"thermal_zone5/trip_point_0_type":   file("passive"),
		"thermal_zone6/temp":                file("30000"),
		"thermal_zone6/trip_point_0_type":   file("passive"),
		"thermal_zone6/trip_point_0_temp":   file("0"), // not set
		"thermal_zone6/trip_point_1_type":   file("active"),
		"thermal_zone6/trip_point_1_temp":   file("20000"), // a fan that turns is no reason
		"thermal_zone6/unrelated/directory": file("x"),
	}
	heat := Cool
	for _, step := range []struct {
		temp string
		want Heat
	}{
		{"60000", Cool},
		{"74999", Cool},
		{"75000", Warm},
		{"71000", Warm}, // not cool enough yet
		{"69999", Cool},
		{"94999", Warm},
		{"95000", Hot},
		{"90000", Hot},
		{"89000", Warm},
		{"20000", Cool},
	} {
		sys["thermal_zone1/temp"] = file(step.temp)
		if heat = read(sys, heat); heat != step.want {
			t.Fatalf("at %s: %v, want %v", step.temp, heat, step.want)
		}
	}
	sys["thermal_zone0/temp"] = file("86000") // it has no trip points
	if got := read(sys, Cool); got != Warm {
		t.Fatalf("a zone without trip points at 86 degrees is %v", got)
	}
	if got := read(nil, Cool); got != Cool {
		t.Fatalf("a box without sensors is %v", got)
	}
	if got := read(fstest.MapFS{}, Hot); got != Cool {
		t.Fatalf("a box without zones is %v", got)
	}
}

// Trip points as usual device trees have them. A box that its own governor holds at a temperature is not hot, or a
// fanless one would never fetch again.
func TestTripPointsOfRealBoxes(t *testing.T) {
	type trip struct {
		kind string
		at   int
	}
	for _, c := range []struct {
		name      string
		trips     []trip
		warm, hot int // degrees, from which it is
	}{
		{"Amlogic S905X2, S905D3", []trip{{"passive", 85}, {"hot", 95}, {"critical", 110}}, 80, 95},
		{"Amlogic S905X, S912", []trip{{"passive", 80}, {"hot", 90}, {"critical", 110}}, 75, 90},
		{"Amlogic S905 of the vendor", []trip{{"passive", 70}, {"passive", 80}, {"hot", 85}, {"critical", 110}}, 75, 85},
		{"rk3328", []trip{{"passive", 70}, {"passive", 85}, {"critical", 95}}, 80, 88},
		{"rk3399", []trip{{"passive", 70}, {"passive", 75}, {"critical", 95}}, 70, 85},
		{"bcm2711", []trip{{"critical", 90}}, 75, 80},
		{"a slowing down only", []trip{{"passive", 95}}, 90, 100},
		{"all at once", []trip{{"passive", 100}, {"critical", 100}}, 92, 97},
		{"none", nil, 85, 100},
	} {
		sys := fstest.MapFS{}
		for i, tr := range c.trips {
			sys[fmt.Sprintf("thermal_zone0/trip_point_%d_type", i)] = file(tr.kind)
			sys[fmt.Sprintf("thermal_zone0/trip_point_%d_temp", i)] = file(strconv.Itoa(tr.at * 1000))
		}
		for temp := 40; temp <= 110; temp++ {
			sys["thermal_zone0/temp"] = file(strconv.Itoa(temp * 1000))
			want, after := Cool, Cool
			if temp >= c.warm {
				want = Warm
			}
			if temp >= c.hot {
				want = Hot
			}
			if temp >= c.warm-5 {
				after = Warm
			}
			if temp >= c.hot-5 {
				after = Hot
			}
			if got, still := read(sys, Cool), read(sys, Hot); got != want || still != after {
				t.Errorf("%s at %d degrees: %s, want %s; after it was hot %s, want %s", c.name, temp, got, want, still, after)
			}
		}
	}
}

// sensor is one zone whose temperature changes while it is read.
type sensor struct{ now atomic.Pointer[fstest.MapFS] }

func (s *sensor) set(millidegrees string) {
	s.now.Store(&fstest.MapFS{"thermal_zone0/temp": file(millidegrees)})
}

func (s *sensor) Open(name string) (fs.File, error) { return s.now.Load().Open(name) }

func TestGovernorTellsOfChangesAndTheSetKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		procs := runtime.GOMAXPROCS(0)
		sys := &sensor{}
		sys.set("40000")
		var told []State
		set := health.New(nil)
		g := New(Options{Thermal: sys, Health: set, Apply: func(s State) { told = append(told, s) }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		synctest.Wait()
		if len(told) != 0 {
			t.Fatalf("told %v though nothing has changed", told)
		}
		g.SetPlaying(true)
		synctest.Wait()
		if len(told) != 1 || told[0] != (State{Playing: true}) || runtime.GOMAXPROCS(0) != 1 {
			t.Fatalf("told %v with %d processors", told, runtime.GOMAXPROCS(0))
		}
		sys.set("99000")
		time.Sleep(lookCool)
		synctest.Wait()
		if len(told) != 2 || told[1].Heat != Warm || len(set.List()) != 1 || set.List()[0].Code != CodeHot {
			t.Fatalf("told %v, warnings %v", told, set.List())
		}
		g.SetPlaying(false)
		synctest.Wait()
		if runtime.GOMAXPROCS(0) != 1 {
			t.Fatal("a warm box uses all processors")
		}
		sys.set("50000")
		time.Sleep(lookWarm)
		synctest.Wait()
		if last := told[len(told)-1]; last != (State{}) || len(set.List()) != 0 || runtime.GOMAXPROCS(0) != procs {
			t.Fatalf("after cooling down: %v, warnings %v, %d processors", last, set.List(), runtime.GOMAXPROCS(0))
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestIdleIsForOneThreadOnly(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ioprio_set is of Linux")
	}
	before := IOClass()
	class := make(chan int)
	go func() {
		IdleIO()
		class <- IOClass()
	}()
	if got := <-class; got != 3 {
		t.Fatalf("the idle thread has I/O class %d, want 3", got)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if got := IOClass(); got != before || got == 3 {
		t.Fatalf("another thread has I/O class %d, had %d", got, before)
	}
}
