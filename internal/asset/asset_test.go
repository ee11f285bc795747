package asset

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // BEP 3
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/bencode"
)

func source(path string, content []byte) Source {
	return Source{Path: path, Length: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

func build(t testing.TB, opt BuildOptions, files ...Source) ([]byte, *Info) {
	t.Helper()
	b, in, err := Build(context.Background(), files, opt)
	if err != nil {
		t.Fatal(err)
	}
	return b, in
}

func random(n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func TestBuildAndParseAgree(t *testing.T) {
	a, b := random(100_000), random(70_001)
	torrent, in := build(t, BuildOptions{
		Name: "series", PieceLength: MinPieceLength, Announce: []string{"https://t.example/announce", "https://u.example/announce"},
		WebSeeds: func(id ID) []string { return []string{"https://o.example/" + id.String() + "/"} },
		Extra:    Extra{Title: "A Series", Version: "3", Publisher: "acme", Types: map[string]string{"a.ts": "video/mp2t"}},
	}, source("a.ts", a), source("x/empty", nil), source("x/b.ts", b))
	if in.Length != 170_001 || in.NumPieces() != 11 || !in.Private || in.Name != "series" || len(in.Files) != 3 {
		t.Fatalf("%+v", in)
	}
	all := append(append([]byte(nil), a...), b...)
	for i := range in.NumPieces() {
		off, n := in.PieceSpan(i)
		if in.PieceHash(i) != sha1.Sum(all[off:off+n]) { //nolint:gosec // BEP 3
			t.Errorf("piece %d", i)
		}
	}
	if off, n := in.PieceSpan(10); off+n != in.Length {
		t.Errorf("the last piece ends at %d", off+n)
	}
	f, ok := in.File("x/b.ts")
	if !ok || f.Offset != 100_000 || f.Length != 70_001 {
		t.Errorf("file %+v", f)
	}
	if _, ok := in.File("b.ts"); ok {
		t.Error("a file that is not there")
	}
	if len(in.Announce) != 3 || in.WebSeeds[0] != "https://o.example/"+in.ID.String()+"/" {
		t.Errorf("announce %v, web seeds %v", in.Announce, in.WebSeeds)
	}
	x, err := ParseExtra(torrent)
	if err != nil || x.Title != "A Series" || len(x.SHA256["x/b.ts"]) != 64 || x.Types["a.ts"] != "video/mp2t" {
		t.Errorf("extra %+v, %v", x, err)
	}
	// What is outside the info dictionary has no part in the ID.
	_, again := build(t, BuildOptions{Name: "series", PieceLength: MinPieceLength},
		source("a.ts", a), source("x/empty", nil), source("x/b.ts", b))
	if again.ID != in.ID {
		t.Error("the ID depends on more than the content")
	}
}

func TestPieces(t *testing.T) {
	_, in := build(t, BuildOptions{Name: "f", Single: true, PieceLength: MinPieceLength}, source("f", random(3*MinPieceLength)))
	for _, c := range []struct{ off, n, begin, end int64 }{
		{0, 1, 0, 1},
		{0, MinPieceLength, 0, 1},
		{0, MinPieceLength + 1, 0, 2},
		{MinPieceLength - 1, 2, 0, 2},
		{2 * MinPieceLength, MinPieceLength, 2, 3},
		{5, 0, 0, 0},
	} {
		begin, end := in.PiecesOf(c.off, c.n)
		if int64(begin) != c.begin || int64(end) != c.end {
			t.Errorf("%d bytes at %d: pieces %d to %d", c.n, c.off, begin, end)
		}
	}
}

func TestPieceLengthFor(t *testing.T) {
	for _, n := range []int64{1, 1 << 20, 256 << 20, 1 << 30, 4 << 30, 8 << 30, 40 << 30, 1 << 40} {
		pl := PieceLengthFor(n)
		pieces := (n + pl - 1) / pl
		t.Logf("%6d MiB: pieces of %4d KiB, %d of them", n>>20, pl>>10, pieces)
		if pl&(pl-1) != 0 || pl < 256<<10 || pl > 4<<20 || n <= 4<<30 && pieces > 2000 {
			t.Errorf("%d bytes: %d pieces of %d", n, pieces, pl)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	broken := errors.New("broken")
	failing := Source{Path: "f", Length: 5, Open: func() (io.ReadCloser, error) { return nil, broken }}
	short, long := source("f", []byte("123")), source("f", []byte("123"))
	short.Length, long.Length = 4, 2
	for what, c := range map[string]struct {
		ctx   context.Context
		files []Source
		opt   BuildOptions
		want  error
	}{
		"nothing":    {context.Background(), nil, BuildOptions{Name: "f"}, nil},
		"empty":      {context.Background(), []Source{source("f", nil)}, BuildOptions{Name: "f"}, nil},
		"unreadable": {context.Background(), []Source{failing}, BuildOptions{Name: "f"}, broken},
		"shorter":    {context.Background(), []Source{short}, BuildOptions{Name: "f"}, ErrChanged},
		"longer":     {context.Background(), []Source{long}, BuildOptions{Name: "f"}, ErrChanged},
		"cancelled":  {ctx, []Source{source("f", []byte("1"))}, BuildOptions{Name: "f"}, context.Canceled},
		"bad name":   {context.Background(), []Source{source("f", []byte("1"))}, BuildOptions{Name: "../f"}, ErrTorrent},
		"bad path":   {context.Background(), []Source{source("../f", []byte("1"))}, BuildOptions{Name: "f"}, ErrTorrent},
		"twice": {
			context.Background(),
			[]Source{source("f", []byte("1")), source("f", []byte("1"))},
			BuildOptions{Name: "f"},
			ErrTorrent,
		},
		"other name": {context.Background(), []Source{source("g", []byte("1"))}, BuildOptions{Name: "f", Single: true}, nil},
	} {
		_, _, err := Build(c.ctx, c.files, c.opt)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestParseTorrentRefuses(t *testing.T) {
	pieces := func(n int) []byte { return make([]byte, 20*n) }
	info := func(edit func(map[string]any)) []byte {
		m := map[string]any{"name": "f", "piece length": 1 << 14, "pieces": pieces(1), "length": 5, "private": 1}
		edit(m)
		b, err := bencode.Marshal(map[string]any{"info": m})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	multi := func(files ...any) func(map[string]any) {
		return func(m map[string]any) { delete(m, "length"); m["files"] = files }
	}
	file := func(n int64, path ...string) any { return map[string]any{"length": n, "path": path} }
	if _, err := ParseTorrent(info(func(map[string]any) {})); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"nothing":               nil,
		"not bencode":           []byte("hello"),
		"no info":               []byte("d1:ai1ee"),
		"too long":              make([]byte, MaxTorrentBytes+1),
		"v2":                    info(func(m map[string]any) { m["meta version"] = 2 }),
		"name with a slash":     info(func(m map[string]any) { m["name"] = "a/b" }),
		"name ..":               info(func(m map[string]any) { m["name"] = ".." }),
		"name not UTF-8":        info(func(m map[string]any) { m["name"] = "\xff" }),
		"no length":             info(func(m map[string]any) { delete(m, "length") }),
		"zero length":           info(func(m map[string]any) { m["length"], m["pieces"] = 0, []byte{} }),
		"negative length":       info(func(m map[string]any) { m["length"] = -5 }),
		"length and files":      info(func(m map[string]any) { m["files"] = []any{file(5, "a")} }),
		"small pieces":          info(func(m map[string]any) { m["piece length"] = 1 << 13 }),
		"odd pieces":            info(func(m map[string]any) { m["piece length"] = 1<<14 + 1 }),
		"large pieces":          info(func(m map[string]any) { m["piece length"] = 1 << 25 }),
		"too few hashes":        info(func(m map[string]any) { m["pieces"] = []byte{} }),
		"too many hashes":       info(func(m map[string]any) { m["pieces"] = pieces(2) }),
		"half a hash":           info(func(m map[string]any) { m["pieces"] = pieces(1)[:19] }),
		"same path twice":       info(multi(file(2, "a"), file(3, "a"))),
		"file and directory":    info(multi(file(2, "a"), file(3, "a", "b"))),
		"path ..":               info(multi(file(5, "..", "a"))),
		"empty path":            info(multi(file(5))),
		"path with a NUL":       info(multi(file(5, "a\x00"))),
		"lengths that overflow": info(multi(file(1<<62, "a"), file(1<<62, "b"), file(5, "c"))),
		"padding file":          info(multi(map[string]any{"length": 5, "path": []string{"p"}, "attr": "p"})),
		"long path":             info(multi(file(5, strings.Repeat("a", MaxPathBytes+1)))),
	} {
		if in, err := ParseTorrent(b); !errors.Is(err, ErrTorrent) {
			t.Errorf("%s: %+v, %v", what, in, err)
		}
	}
}

func TestIDText(t *testing.T) {
	id := ID{0xab, 19: 0xcd}
	b, err := id.MarshalText()
	if err != nil || string(b) != "ab000000000000000000000000000000000000cd" || id.Short() != "ab000000" || id.IsZero() {
		t.Fatalf("%s, %v", b, err)
	}
	var back ID
	if err := back.UnmarshalText(bytes.ToUpper(b)); err != nil || back != id {
		t.Fatalf("%s, %v", back, err)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("g", 40), strings.Repeat("a", 41)} {
		if back.UnmarshalText([]byte(bad)) == nil || back != id {
			t.Errorf("%q: %s", bad, back)
		}
	}
}

// Another implementation reads the same infohash and the same files out of what Build writes.
func TestOtherClientsReadIt(t *testing.T) {
	python := ""
	for _, p := range []string{"/usr/bin/python3", "python3"} { // Debian's own has Debian's modules
		if exec.Command(p, "-c", "import libtorrent").Run() == nil {
			python = p
			break
		}
	}
	if python == "" {
		t.Skip("python3 with libtorrent is not installed")
	}
	torrent, in := build(t, BuildOptions{
		Name: "series", Extra: Extra{Title: "T"}, WebSeeds: func(ID) []string { return []string{"https://o.example/x/"} },
	}, source("a.ts", random(300_000)), source("x/b.ts", random(10)))
	file := filepath.Join(t.TempDir(), "x.torrent")
	if err := os.WriteFile(file, torrent, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-c", `
import libtorrent, sys
i = libtorrent.torrent_info(sys.argv[1])
f = i.files()
print(i.info_hash(), i.priv(), i.num_pieces(), ",".join(f.file_path(k) for k in range(f.num_files())), i.web_seeds()[0]["url"])`,
		file).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s True %d series/a.ts,series/x/b.ts https://o.example/x/", in.ID, in.NumPieces())
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("libtorrent reads %q, want %q", got, want)
	}
}

func FuzzParseTorrent(f *testing.F) {
	one, _ := build(f, BuildOptions{Name: "f", Single: true}, source("f", []byte("content")))
	two, _ := build(f, BuildOptions{Name: "d", Announce: []string{"https://t/"}, WebSeeds: func(ID) []string { return []string{"https://o/"} }},
		source("a", []byte("content")), source("b/c", []byte("more")))
	f.Add(one)
	f.Add(two)
	f.Add([]byte("d4:infod6:lengthi5e4:name1:f12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ParseExtra(b)
		in, err := ParseTorrent(b)
		if err != nil {
			if !errors.Is(err, ErrTorrent) {
				t.Fatalf("not an ErrTorrent: %v", err)
			}
			return
		}
		var sum int64
		for _, f := range in.Files {
			if f.Offset != sum || f.Length < 0 || filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path ||
				strings.HasPrefix(f.Path, "..") {
				t.Fatalf("file %+v at %d", f, sum)
			}
			sum += f.Length
		}
		if sum != in.Length || in.Length <= 0 || len(in.Files) == 0 {
			t.Fatalf("%d bytes in files, %d in all", sum, in.Length)
		}
		off, n := in.PieceSpan(in.NumPieces() - 1)
		if off+n != in.Length || n <= 0 {
			t.Fatalf("the last piece is %d at %d of %d", n, off, in.Length)
		}
		if _, end := in.PiecesOf(0, in.Length); end != in.NumPieces() {
			t.Fatalf("%d pieces, not %d", end, in.NumPieces())
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	content := random(32 << 20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		build(b, BuildOptions{Name: "f", Single: true}, source("f", content))
	}
}

func BenchmarkParseTorrent(b *testing.B) {
	in, _ := build(b, BuildOptions{Name: "f", Single: true, PieceLength: MinPieceLength}, source("f", random(24<<20)))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTorrent(in); err != nil {
			b.Fatal(err)
		}
	}
}
