package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // another screen, no cursor, lines are cut and not wrapped
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// IsTerminal reports whether something can be drawn in place on w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS) //nolint:gosec // a file descriptor
	return err == nil
}

// Size is how many columns and lines a terminal has; 80 and 24 when it does not tell.
func Size(w io.Writer) (columns, lines int) {
	if f, ok := w.(*os.File); ok {
		ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ) //nolint:gosec // a file descriptor
		if err == nil && ws.Col > 0 && ws.Row > 0 {
			return int(ws.Col), int(ws.Row)
		}
	}
	return 80, 24
}

// Screen shows one view after the other in place. Its methods are called from one goroutine.
type Screen struct {
	Out  io.Writer
	Size func() (columns, lines int)

	drawn string // what is on the screen; empty before the first view
}

// NewScreen makes one on a terminal; it changes nothing before the first Draw.
func NewScreen(out io.Writer) *Screen {
	return &Screen{Out: out, Size: func() (int, int) { return Size(out) }}
}

// Draw shows a view: each line is cleared to its end, then all below, so that nothing flickers. What is the same as
// before is not written again. When it is longer than the screen the last line says so.
func (s *Screen) Draw(view string) error {
	_, height := s.Size()
	lines := strings.Split(strings.TrimRight(view, "\n"), "\n")
	if room := max(height-1, 1); len(lines) > room {
		more := len(lines) - room + 1
		lines = append(lines[:room-1:room-1], fmt.Sprintf("… %d more lines; the window is too low for them", more))
	}
	text := strings.Join(lines, "\x1b[K\n") + "\x1b[K\n"
	if text == s.drawn {
		return nil
	}
	start := ""
	if s.drawn == "" {
		start = enterScreen
	}
	s.drawn = text
	_, err := io.WriteString(s.Out, start+"\x1b[H"+text+"\x1b[J")
	return err
}

// Close gives the screen back and leaves the last view on it.
func (s *Screen) Close(last string) error {
	if s.drawn == "" {
		return nil
	}
	s.drawn = ""
	_, err := io.WriteString(s.Out, leaveScreen+last)
	return err
}
