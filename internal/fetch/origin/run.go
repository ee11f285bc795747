package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"boxd/internal/asset"
	"boxd/internal/fetch/pace"
)

// run is one Fetch: consecutive pieces from one server, a request for each file that they touch.
type run struct {
	s    *Source
	host int // place of url among the source's
	url  string
	next int // the piece that is being filled
	end  int
	res  *Result

	pos  int64 // where in the asset the next byte goes
	kept int64 // bytes of the present piece that this run wrote
	part int64 // bytes of the piece that an earlier run of this asset wrote
	odd  bool  // a piece was wrong of which not all came with this run
	sock *pace.Socket
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

func (r *run) do(ctx context.Context) error {
	info := r.s.store.Info()
	off, _ := info.PieceSpan(r.next)
	r.part = r.s.resumeAt(r.next)
	r.pos = off + r.part
	last, n := info.PieceSpan(r.end - 1)
	err := r.files(ctx, info, last+n)
	if err != nil && r.next < r.end {
		off, _ := info.PieceSpan(r.next)
		if errors.Is(err, ErrWrongBytes) || errors.Is(err, ErrStore) {
			return err
		}
		r.s.keepResume(r.next, r.pos-off)
	}
	return err
}

// files asks for [r.pos, end) file by file.
func (r *run) files(ctx context.Context, info *asset.Info, end int64) error {
	for _, f := range info.Files {
		from, to := max(r.pos, f.Offset), min(end, f.Offset+f.Length)
		if from >= to {
			continue
		}
		if err := r.file(ctx, info, f, from-f.Offset, to-f.Offset); err != nil {
			return err
		}
	}
	return nil
}

// file asks for the bytes [from, to) of one file.
func (r *run) file(ctx context.Context, info *asset.Info, f asset.File, from, to int64) error {
	ctx, cancel := context.WithCancelCause(r.watch(ctx, to-from))
	defer cancel(nil)
	defer func() { r.sock.Remove() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fileURL(r.url, info, f), http.NoBody)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStatus, err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "boxd")
	idle := time.AfterFunc(r.s.opts.Idle, func() { cancel(ErrTooSlow) })
	defer idle.Stop()
	resp, err := r.s.opts.Client.Do(req)
	if err != nil {
		return cause(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // a body that is not read to its end costs the connection, no more
	if err := checkAnswer(resp, from, to, f.Length); err != nil {
		return err
	}
	return cause(ctx, r.body(ctx, io.LimitReader(resp.Body, to-from), to-from, idle))
}

// watch has the connection watched that the request gets.
func (r *run) watch(ctx context.Context, n int64) context.Context {
	if r.s.opts.Sockets == nil {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		r.sock.Remove() // of a redirect
		r.sock = r.s.opts.Sockets.Add(i.Conn)
		r.sock.Expect(n)
	}})
}

// cause prefers the reason for which we ended the request to the error that the ending made.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); err != nil && c != nil && errors.Is(c, ErrTooSlow) {
		return c
	}
	return err
}

// body reads want bytes at the pace of the buckets, writes them and verifies each piece that becomes whole.
func (r *run) body(ctx context.Context, body io.Reader, want int64, idle *time.Timer) error {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	watch := watchdog{min: r.s.opts.MinRate, patience: r.s.opts.Patience}
	for want > 0 {
		_, plen := r.s.store.Info().PieceSpan(r.next)
		poff, _ := r.s.store.Info().PieceSpan(r.next)
		n := int(min(int64(len(*bp)), poff+plen-r.pos))
		for _, b := range r.s.opts.Buckets {
			n = b.Grant(n)
		}
		began := time.Now()
		idle.Reset(r.s.opts.Idle)
		n, err := body.Read((*bp)[:n])
		idle.Stop() // waiting for our own pace is not the server's fault
		r.count(n)
		r.sock.Got(n)
		if n > 0 {
			if werr := r.take(ctx, (*bp)[:n]); werr != nil {
				return werr
			}
			want -= int64(n)
		}
		switch {
		case err != nil && want > 0:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		case watch.slow(n, time.Since(began)):
			return ErrTooSlow
		}
		for _, b := range r.s.opts.Buckets {
			if err := b.Take(n, ctx.Done()); err != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

func (r *run) count(n int) {
	r.res.Received += int64(n)
	if r.s.opts.OnBytes != nil && n > 0 {
		r.s.opts.OnBytes(n)
	}
}

// take writes bytes at r.pos, which never reach beyond the present piece.
func (r *run) take(ctx context.Context, p []byte) error {
	st := r.s.store
	off, n := st.Info().PieceSpan(r.next)
	if st.Have(r.next) { // a peer was faster
		r.res.Wasted += int64(len(p))
	} else if _, err := st.WriteAt(p, r.pos); err != nil {
		if !st.Have(r.next) && !r.s.opts.Taken(err) {
			return fmt.Errorf("%w: %w", ErrStore, err)
		}
		r.res.Wasted += int64(len(p))
	} else {
		r.kept += int64(len(p))
	}
	r.pos += int64(len(p))
	if r.pos < off+n {
		return nil
	}
	err := r.verify(ctx)
	r.next++
	r.kept, r.part = 0, 0
	return err
}

func (r *run) verify(context.Context) error {
	st, i := r.s.store, r.next
	if st.Have(i) {
		return nil
	}
	sum, err := st.HashPiece(i)
	if err != nil {
		return fmt.Errorf("%w: hash piece %d: %w", ErrStore, i, err)
	}
	if sum != st.Info().PieceHash(i) {
		if st.Have(i) {
			return nil
		}
		r.res.Wasted += r.kept
		if err := st.MarkMissing(i); err != nil {
			return fmt.Errorf("%w: piece %d: %w", ErrStore, i, err)
		}
		if _, n := st.Info().PieceSpan(i); r.kept < n && (r.kept+r.part < n || !r.s.odd(r.host)) {
			r.odd = true
			return nil // not all of it is this request's: written earlier, and perhaps lost since. Whole the next time
		}
		return fmt.Errorf("piece %d: %w", i, ErrWrongBytes)
	}
	if err := st.MarkVerified(i); err != nil {
		return fmt.Errorf("%w: mark piece %d: %w", ErrStore, i, err)
	}
	r.res.Verified++
	if r.s.opts.OnPiece != nil {
		r.s.opts.OnPiece(i)
	}
	return nil
}

// watchdog notices a server that sends, but hardly anything. Only time spent reading counts.
type watchdog struct {
	min      int64
	patience time.Duration
	bytes    int64
	spent    time.Duration
}

func (w *watchdog) slow(n int, d time.Duration) bool {
	w.bytes += int64(n)
	w.spent += d
	if w.spent < w.patience {
		return false
	}
	slow := float64(w.bytes) < float64(w.min)*w.spent.Seconds()
	w.bytes, w.spent = 0, 0
	return slow
}

// fileURL is where BEP 19 has the file.
func fileURL(base string, info *asset.Info, f asset.File) string {
	single := len(info.Files) == 1 && f.Path == info.Name
	if single && !strings.HasSuffix(base, "/") {
		return base
	}
	u := strings.TrimSuffix(base, "/") + "/" + url.PathEscape(info.Name)
	if single {
		return u
	}
	for _, e := range strings.Split(f.Path, "/") {
		u += "/" + url.PathEscape(e)
	}
	return u
}

// checkAnswer accepts exactly what was asked: bytes [from, to) of a file of this length.
func checkAnswer(resp *http.Response, from, to, length int64) error {
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") && resp.StatusCode/100 == 2 {
		return fmt.Errorf("%w: %.40q", ErrEncoded, enc)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		a, b, total, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil || a != from || b != to || (total >= 0 && total != length) {
			return fmt.Errorf("%w: %.80q for bytes %d to %d of %d", ErrWrongRange,
				resp.Header.Get("Content-Range"), from, to, length)
		}
		return nil
	case http.StatusOK:
		if from == 0 && (resp.ContentLength < 0 || resp.ContentLength == length) {
			return nil // the beginning of the whole is what we asked for
		}
		return ErrRangeIgnored
	}
	return statusError(resp)
}

// parseContentRange reads "bytes a-b/total" (RFC 9110, section 14.4) and returns [from, to); total is -1 for "*".
func parseContentRange(v string) (from, to, total int64, err error) {
	spec, ok := strings.CutPrefix(strings.TrimSpace(v), "bytes ")
	if !ok {
		return 0, 0, 0, fmt.Errorf("content range %.80q: not in bytes", v)
	}
	span, size, ok := strings.Cut(spec, "/")
	a, b, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, 0, fmt.Errorf("content range %.80q: malformed", v)
	}
	total = -1
	if size != "*" {
		total, err = digits(size)
	}
	f, err1 := digits(a)
	l, err2 := digits(b)
	if err := errors.Join(err, err1, err2); err != nil {
		return 0, 0, 0, fmt.Errorf("content range %.80q: %w", v, err)
	}
	if l < f || l == 1<<63-1 || (total >= 0 && l >= total) {
		return 0, 0, 0, fmt.Errorf("content range %.80q: impossible", v)
	}
	return f, l + 1, total, nil
}

// digits parses what RFC 9110 calls 1*DIGIT: no sign, no blanks.
func digits(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	return strconv.ParseInt(s, 10, 64)
}
