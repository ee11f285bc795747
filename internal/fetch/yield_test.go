package fetch

import (
	"testing"

	"boxd/internal/fetch/pace"
)

// A kernel that counts no received bytes does not make a line that gives much look dead.
func TestAKernelThatDoesNotCount(t *testing.T) {
	t.Parallel()
	y := &yielder{}
	old := pace.Look{Sockets: 2}
	if in, out := y.moved(old, 500, 20); in != 500 || out != 20 {
		t.Errorf("%d in and %d out with a kernel that does not count", in, out)
	}
	if in, out := y.moved(pace.Look{Sockets: 2, Received: 700, Acked: 30}, 500, 20); in != 700 || out != 30 {
		t.Errorf("%d in and %d out with one that counts", in, out)
	}
	if in, _ := y.moved(old, 500, 20); in != 0 {
		t.Errorf("%d arrived, though the kernel saw nothing: it was in memory", in)
	}
	if in, _ := y.moved(pace.Look{}, 500, 20); in != 500 {
		t.Errorf("%d in without sockets to ask", in)
	}
}
