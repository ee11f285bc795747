//go:build linux

package home

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// mpvPlays has mpv play from the beginning and from the middle, and says when it showed a picture, and how long it stood still.
func (b *box) mpvPlays(t *testing.T, name, path string, play time.Duration) {
	t.Helper()
	socket := filepath.Join(b.dir, name+".sock")
	cmd := b.lab.Command(t.Context(), "mpv", "--no-config", "--vo=null", "--ao=null", "--really-quiet", "--no-ytdl", "--idle=yes",
		"--cache=yes", "--input-ipc-server="+socket)
	must(t, cmd.Start())
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	var c net.Conn
	eventually(t, "mpv runs", time.Minute, func() (err error) {
		c, err = net.Dial("unix", socket)
		return err
	})
	defer c.Close()
	say := func(words ...any) {
		text, err := json.Marshal(map[string]any{"command": words})
		must(t, err)
		_, err = c.Write(append(text, '\n'))
		must(t, err)
	}
	say("observe_property", 1, "paused-for-cache")
	say("observe_property", 2, "duration")
	type message struct {
		Event, Name string
		Data        any
	}
	messages := make(chan message)
	go func() {
		defer close(messages)
		for lines := json.NewDecoder(c); ; {
			var m message
			if lines.Decode(&m) != nil {
				return
			}
			select {
			case messages <- m:
			case <-t.Context().Done():
				return
			}
		}
	}()
	length, stalls, still := 0.0, 0, time.Duration(0)
	var stood time.Time
	next := func(until time.Time) (event string) {
		select {
		case <-time.After(time.Until(until)):
			return "time"
		case m, ok := <-messages:
			if !ok {
				return "end-file"
			}
			switch data := m.Data.(type) {
			case bool:
				if data && stood.IsZero() {
					stood = time.Now()
					stalls++
				} else if !data && !stood.IsZero() {
					still += time.Since(stood)
					stood = time.Time{}
				}
			case float64:
				length = data
			}
			return m.Event
		}
	}
	watch := func(begin time.Time) string {
		for {
			event := next(begin.Add(time.Minute))
			if event == "playback-restart" {
				break
			}
			if event == "time" || event == "end-file" {
				t.Fatalf("%s: %s before a picture", name, event)
			}
		}
		first := time.Since(begin)
		stalls, still, stood = 0, 0, time.Time{}
		for end := time.Now().Add(play); time.Now().Before(end); {
			if event := next(end); event == "end-file" {
				t.Fatalf("%s ended", name)
			}
		}
		return fmt.Sprintf("first frame %4d ms, %d stalls, %d ms in %v", first.Milliseconds(), stalls, still.Milliseconds(), play)
	}
	begin := time.Now()
	say("loadfile", "http://127.0.0.1:8480/assets/"+path)
	start := watch(begin)
	begin = time.Now()
	say("seek", length/2+1, "absolute") // not where a segment begins
	t.Logf("RESULT %-30s %s; after a seek to the middle: %s", name, start, watch(begin))
}
