package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"boxd/internal/asset"
)

const chunk = 64 << 10

// Run answers other boxes until ctx ends.
func (r *Remote) Run(ctx context.Context) error {
	defer r.client.CloseIdleConnections()
	if r.o.Listener == nil {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{id}/{piece}", r.serve)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: idleTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: 4 << 10, ErrorLog: nil,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // requests under way are repeated elsewhere
	defer stop()
	err := srv.Serve(plain{r.o.Listener})
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// plain hides from net/http that connections are TLS: it would refuse a protocol that it does not know.
type plain struct{ net.Listener }

func (p plain) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{c}, nil
}

// serve answers with one verified piece.
func (r *Remote) serve(w http.ResponseWriter, q *http.Request) {
	from, err := netip.ParseAddrPort(q.RemoteAddr)
	if err != nil || !r.o.Home.IsLAN(from.Addr().Unmap()) {
		http.Error(w, "not of this home", http.StatusForbidden)
		return
	}
	id, err := asset.ParseID(q.PathValue("id"))
	i, perr := strconv.Atoi(q.PathValue("piece"))
	if err != nil || perr != nil {
		http.NotFound(w, q)
		return
	}
	select {
	case r.serving <- struct{}{}:
		defer func() { <-r.serving }()
	case <-q.Context().Done():
		return
	}
	store, ok := r.o.Asset(id)
	if !ok || i < 0 || i >= store.Info().NumPieces() {
		http.NotFound(w, q)
		return
	}
	defer store.Hold()()
	off, length := store.Info().PieceSpan(i)
	buf := make([]byte, min(chunk, length))
	h, ctl := w.Header(), http.NewResponseController(w)
	h.Set("Content-Type", "application/octet-stream")
	for sent := int64(0); sent < length; {
		part := buf[:min(int64(len(buf)), length-sent)]
		if _, err := store.ReadVerifiedAt(part, off+sent); err != nil && !errors.Is(err, io.EOF) {
			if sent == 0 {
				http.NotFound(w, q)
			}
			return // a body that is too short tells the other end
		}
		if sent == 0 {
			h.Set("Content-Length", strconv.FormatInt(length, 10))
		}
		if err := r.o.Pay(len(part), q.Context().Done()); err != nil {
			return
		}
		_ = ctl.SetWriteDeadline(time.Now().Add(idleTimeout)) // else that of the whole answer holds
		n, err := w.Write(part)
		sent += int64(n)
		r.served.Add(int64(n))
		if err != nil {
			return
		}
	}
}
