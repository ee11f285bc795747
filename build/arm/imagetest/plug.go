package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// pullThePlug ends the first box at once in the middle of a fetch and starts it again: it goes on from what was verified.
func (t *test) pullThePlug(ctx context.Context) error {
	more := filepath.Join(t.dir, "more.bin")
	if err := randomFile(more, int64(t.size)<<20); err != nil {
		return err
	}
	id, err := t.fleet.publish(ctx, "more", more, "")
	if err != nil {
		return err
	}
	var before int64
	if err := t.a.until(ctx, "a fetch is half done", 4*time.Minute, func(ctx context.Context) error {
		s, err := t.a.status(ctx)
		if err != nil {
			return err
		}
		for _, a := range s.Assets {
			if a.ID == id {
				before = a.Bytes.LAN + a.Bytes.Peer + a.Bytes.Origin
				if before > a.Length/4 {
					return nil
				}
			}
		}
		return fmt.Errorf("%d bytes", before)
	}); err != nil {
		return err
	}
	t.a.pullThePlug()
	fmt.Printf("box-a: plug pulled after %d bytes of a fetch\n", before)
	again := *t.a
	again.writeLog = "" // what has been logged is judged by the cuts
	t.a = &again
	if err := t.a.start(); err != nil {
		return err
	}
	if err := t.a.connect(ctx); err != nil {
		return err
	}
	if _, err := t.a.ready(ctx); err != nil {
		return err
	}
	for _, id := range []string{t.Film, t.Bulk, id} {
		if err := t.a.holds(ctx, id, 4*time.Minute); err != nil {
			return err
		}
	}
	for _, id := range []string{t.Film, t.Bulk, id} {
		out, err := t.a.run(ctx, "boxd verify "+id)
		if err != nil {
			return err
		}
		fmt.Println(indent(out))
	}
	t.a.pullThePlug()
	return nil
}

// powerCuts judges what both boxes wrote: the first, whose boxd is the real one, and the second, which ran the control.
func (t *test) powerCuts(ctx context.Context) error {
	fmt.Printf("seed %d\n", t.seed)
	honest, err := t.cutPower(ctx, t.a, t.cuts)
	if err != nil {
		return err
	}
	honest.print(os.Stdout, "power cuts")
	control, err := t.cutPower(ctx, t.b, max(t.cuts/4, 10))
	if err != nil {
		return err
	}
	control.print(os.Stdout, "control, boxd without the syncs of media")
	switch {
	case honest.bad > 0:
		return fmt.Errorf("%d of %d power cuts left something wrong", honest.bad, honest.cuts)
	case honest.pieces == 0:
		return errors.New("no cut had a piece to check: the test proves nothing")
	case control.wrong == 0:
		return errors.New("no piece that the control claims was wrong: the test proves nothing")
	}
	return nil
}
