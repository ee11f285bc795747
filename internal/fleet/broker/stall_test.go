package broker_test

import (
	"crypto/tls"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// deaf is a connection that stops reading when it is told to.
type deaf struct {
	net.Conn
	stop atomic.Bool
	end  chan struct{}
}

func (d *deaf) Read(p []byte) (int, error) {
	if d.stop.Load() {
		<-d.end
	}
	return d.Conn.Read(p)
}

// A box that has stopped reading gets thirty megabytes, and its neighbour's commands come as fast as ever.
func TestAStalledBoxDelaysNoOther(t *testing.T) {
	r := newRig(t)
	d := tls.Dialer{Config: r.ca.box(t, "box-deaf", "living")}
	raw, err := d.DialContext(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := &deaf{Conn: raw, end: make(chan struct{})}
	stalled := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + r.addr).SetClientID("box-deaf").SetAutoReconnect(false).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil }))
	defer stalled.Disconnect(0)
	defer close(conn.end)
	if tok := stalled.Connect(); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	if tok := stalled.Subscribe("boxd/v1/f1/box-deaf/cmd/+", 0, nil); !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	other, err := attacker(r, "box-a", r.ca.box(t, "box-a", "living"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Disconnect(0)
	heard := make(chan struct{}, 1)
	tok := other.Subscribe("boxd/v1/f1/box-a/cmd/+", 0, func(mqtt.Client, mqtt.Message) { heard <- struct{}{} })
	if !tok.WaitTimeout(time.Minute) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	conn.stop.Store(true)
	payload := make([]byte, 8<<10)
	var slowest time.Duration
	for range 40 {
		for range 100 {
			if err := r.bus.Send("boxd/v1/f1/box-deaf/cmd/c1", payload); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := r.bus.Send("boxd/v1/f1/box-a/cmd/c1", payload); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			slowest = max(slowest, time.Since(began))
		case <-time.After(time.Minute):
			t.Fatal("the other box does not hear its command")
		}
	}
	t.Logf("slowest command beside it: %s", slowest)
	if slowest > 8*time.Second { // the broker waits 10 s for a box that does not read
		t.Errorf("a command took %s beside a stalled box", slowest)
	}
}
