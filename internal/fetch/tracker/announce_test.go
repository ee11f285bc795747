package tracker

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"boxd/internal/asset"
)

func TestAnnounce(t *testing.T) {
	id := asset.ID{0xff, 0, '&', '=', ' ', '%'}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("info_hash") != string(id[:]) || q.Get("port") != "6880" || q.Get("left") != "7" ||
			q.Get("event") != "started" || q.Get("compact") != "1" || q.Get("key") != "kept" {
			t.Errorf("query %q", r.URL.RawQuery)
		}
		fmt.Fprint(w, "d8:completei3e8:intervali60e5:peers12:\x7f\x00\x00\x01\x1a\xe1\x0a\x00\x00\x02\x00\x00"+
			"6:peers618:\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1a\xe2e")
	}))
	defer srv.Close()
	a, err := Announce(t.Context(), srv.Client(), srv.URL+"/announce?key=kept",
		Request{Asset: id, Port: 6880, Left: 7, Event: Started})
	if err != nil {
		t.Fatal(err)
	}
	if a.Interval != time.Minute || a.Complete != 3 || len(a.Peers) != 2 ||
		a.Peers[0].Addr != netip.MustParseAddrPort("127.0.0.1:6881") ||
		a.Peers[1].Addr != netip.MustParseAddrPort("[2001:db8::1]:6882") {
		t.Fatalf("%+v", a)
	}
}

func TestParse(t *testing.T) {
	list := "d8:intervali1e5:peersld3:box5:box-a2:ip9:127.0.0.14:porti6881eed2:ip3:bad4:porti1eed2:ip7:1.2.3.44:porti0eeee"
	a, err := Parse([]byte(list))
	if err != nil || len(a.Peers) != 1 || a.Peers[0].Box != "box-a" || a.Interval != minInterval {
		t.Fatalf("%+v %v", a, err)
	}
	if _, err := Parse([]byte("d14:failure reason7:unknowne")); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "unknown") {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", "d5:peers5:12345e", "le", strings.Repeat("d", maxBytes+1)} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
	many := "d5:peers" + fmt.Sprint(6*200) + ":" + strings.Repeat("\x01\x02\x03\x04\x05\x06", 200) + "e"
	if a, err := Parse([]byte(many)); err != nil || len(a.Peers) != maxAddrs {
		t.Fatalf("%d peers, %v", len(a.Peers), err)
	}
}

func TestARefusalByStatus(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	if _, err := Announce(t.Context(), srv.Client(), srv.URL, Request{}); !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("d8:intervali60e5:peers6:\x7f\x00\x00\x01\x1a\xe1e"))
	f.Add([]byte("d5:peersld2:ip9:127.0.0.14:porti6881eeee"))
	f.Add([]byte("d14:failure reason2:noe"))
	f.Add([]byte("d6:peers618:aaaaaaaaaaaaaaaaaae"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(b)
		if err != nil {
			return
		}
		if len(a.Peers) > MaxPeers || a.Interval < minInterval || a.Interval > maxInterval {
			t.Fatalf("%+v", a)
		}
		for _, p := range a.Peers {
			if !p.Addr.IsValid() || p.Addr.Port() == 0 {
				t.Fatalf("%+v", p)
			}
		}
	})
}
