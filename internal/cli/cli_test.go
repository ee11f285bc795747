package cli

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func program() (*cobra.Command, *bytes.Buffer) {
	root := &cobra.Command{Use: "prog", Short: "a program", Version: "1.2"}
	root.PersistentFlags().String("where", "", "the `PLACE`")
	group := &cobra.Command{Use: "group", Short: "holds others"}
	leaf := &cobra.Command{
		Use: "leaf X", Short: "does something", Args: Args(1, "one X"), Example: "  prog group leaf x",
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] == "fault" {
				return errors.New("it broke")
			}
			return nil
		},
	}
	leaf.Flags().IntP("number", "n", 3, "how many")
	group.AddCommand(leaf, &cobra.Command{Use: "other", Args: NoArgs, RunE: func(*cobra.Command, []string) error { return ErrSilent }})
	root.AddCommand(group, ManualCommand([2]string{"/etc/prog", "its configuration"}))
	Prepare(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	return root, &out
}

func TestExitCodesAndWhatIsSaid(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", ExitDone, "Usage:"},
		{"--version", ExitDone, "prog 1.2"},
		{"group", ExitUsage, "prog: want prog group leaf|other; see prog group --help\n"},
		{"group --help", ExitDone, "Available Commands:"},
		{"group leaf x", ExitDone, ""},
		{"group leaf fault", ExitFault, "prog: it broke\n"},
		{"group other", ExitFault, ""},
		{"group leaf", ExitUsage, "prog group leaf: want one X; see prog group leaf --help"},
		{"group other x", ExitUsage, `unknown argument "x"`},
		{"group laef x", ExitUsage, `unknown command "laef" for "prog group"; did you mean "leaf"?`},
		{"gruop", ExitUsage, `did you mean "group"?`},
		{"group leaf x --numbre 4", ExitUsage, "unknown flag: --numbre; see prog group leaf --help"},
		{"group leaf x -n many", ExitUsage, "invalid argument"},
	} {
		root, out := program()
		if code := Execute(t.Context(), root, strings.Fields(c.args), nil); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("prog %s: exit %d, want %d with %q:\n%s", c.args, code, c.code, c.says, out)
		} else if c.says == "" && out.Len() > 0 {
			t.Errorf("prog %s said %q", c.args, out)
		}
	}
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	root, out := program()
	if code := Execute(t.Context(), root, []string{"man", dir}, nil); code != ExitDone {
		t.Fatal(out)
	}
	for file, says := range map[string][]string{
		"prog.8":            {".TH PROG 8", ".SH COMMANDS", ".SH FILES", ".I /etc/prog", "prog\\-group (1)"},
		"prog-group.1":      {".SH SEE ALSO", "leaf X", "\\-\\-where PLACE"},
		"prog-group-leaf.1": {".SH EXAMPLES", "\\-n, \\-\\-number int", "(default 3)", ".SH EXIT STATUS"},
		"prog-completion.1": {".SH NAME"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range says {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no %q:\n%s", file, want, text)
			}
		}
	}
}

func TestTextThatCannotSteerTheTerminal(t *testing.T) {
	if got := Plain("a\x1b[2Jb\nc\u009bd\u202ee"); strings.ContainsAny(got, "\x1b\n\u009b\u202e") {
		t.Errorf("%q", got)
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 5 << 20: "5.00 MiB", 123 << 30: "123 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if Bar(0, 0, 4) != "░░░░" || Bar(99, 100, 4) != "███░" || Bar(4, 4, 4) != "████" || Bar(9, 4, 4) != "████" ||
		Bar(1<<62-1, 1<<62, 10) != "█████████░" {
		t.Error("bars")
	}
	now := time.Date(2026, 3, 6, 20, 0, 0, 0, time.Local)
	for d, want := range map[time.Duration]string{0: "20:00", 24 * time.Hour: "Sat 20:00", 40 * 24 * time.Hour: "15 Apr 2026"} {
		if got := Clock(now.Add(d), now); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := strings.Join(Wrap("one two three", 7), "|"); got != "one two|three" {
		t.Error(got)
	}
	var out bytes.Buffer
	table := Table{Head: []string{"NAME", ">N"}}
	table.Add("ä", "1")
	table.Add("longer", "234")
	table.Print(&out)
	if out.String() != "NAME      N\nä         1\nlonger  234\n" {
		t.Errorf("%q", out.String())
	}
}

func TestScreenDrawsInPlaceAndFitsTheWindow(t *testing.T) {
	var out bytes.Buffer
	s := &Screen{Out: &out, Size: func() (int, int) { return 80, 5 }}
	if err := s.Close("nothing was drawn"); err != nil || out.Len() != 0 {
		t.Errorf("%v, %q", err, out.String())
	}
	draw := func(view string) string {
		out.Reset()
		if err := s.Draw(view); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := draw("a\nb\n"); !strings.HasPrefix(got, enterScreen+"\x1b[H") || !strings.Contains(got, "a\x1b[K\nb") {
		t.Errorf("%q", got)
	}
	if got := draw("a\nb\n"); got != "" {
		t.Errorf("the same view was written again: %q", got)
	}
	if got := draw("1\n2\n3\n4\n5\n6\n"); strings.Count(got, "\n") != 4 || !strings.Contains(got, "3 more lines") {
		t.Errorf("%q", got)
	}
	out.Reset()
	if err := s.Close("the end\n"); err != nil || out.String() != leaveScreen+"the end\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 3, 6, 20, 0, 0, 0, time.UTC)
	p := NewProgress(&out, "verify")
	p.Set(1, 2)
	if out.Len() != 0 {
		t.Errorf("written to what is not a terminal: %q", out.String())
	}
	p.on, p.now, p.start, p.width = true, func() time.Time { return now }, now, func() int { return 100 }
	step := func(d time.Duration, done, total int64) string {
		out.Reset()
		now = now.Add(d)
		p.Set(done, total)
		return out.String()
	}
	if got := step(100*time.Millisecond, 1<<20, 8<<20); got != "" {
		t.Errorf("quick work shows %q", got)
	}
	got := step(1900*time.Millisecond, 2<<20, 8<<20)
	if !strings.Contains(got, " 25 %  2.00 MiB of 8.00 MiB  1.00 MiB/s  7 s left") || !strings.HasPrefix(got, "\rverify  █████░") {
		t.Errorf("%q", got)
	}
	if got := step(10*time.Millisecond, 3<<20, 8<<20); got != "" {
		t.Errorf("drawn too often: %q", got)
	}
	p.Step("hash")
	if got := step(2*time.Second, 0, 0); got != "\rhash … 2 s\x1b[K" {
		t.Errorf("%q", got)
	}
	if n, err := io.Copy(io.Discard, p.Reader(strings.NewReader("12345"), 5)); n != 5 || err != nil || p.done != 5 {
		t.Errorf("%d, %v, %d", n, err, p.done)
	}
	out.Reset()
	p.Close()
	if out.String() != "\r\x1b[K" {
		t.Errorf("%q", out.String())
	}
}

func TestLogsForTheJournal(t *testing.T) {
	var out bytes.Buffer
	say := func(format string) string {
		out.Reset()
		log := slog.New(LogHandler(&out, format, slog.LevelInfo)).With("service", "cache")
		log.Debug("not this")
		log.Info("opened\nwell", "assets", 3)
		log.Error("broken")
		return out.String()
	}
	t.Setenv("JOURNAL_STREAM", "")
	if got := say("text"); !strings.HasPrefix(got, "time=") || !strings.Contains(got, "level=INFO") || strings.Count(got, "\n") != 2 {
		t.Errorf("%q", got)
	}
	t.Setenv("JOURNAL_STREAM", "8:1")
	want := "<6>msg=\"opened\\nwell\" service=cache assets=3\n<3>msg=broken service=cache\n"
	if got := say("text"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := say("json"); !strings.HasPrefix(got, `<6>{"msg":`) {
		t.Errorf("%q", got)
	}
}
