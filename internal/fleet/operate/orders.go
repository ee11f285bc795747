package operate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"boxd/internal/fleet/registry"
	"boxd/internal/mqttwire"
	"boxd/internal/ops"
)

// maxCommandLife bounds a command's expiry: boxes remember the ids of commands until then.
const maxCommandLife = 30 * 24 * time.Hour

// Command signs an order for a box, or for every box of "group:<name>", stores it and sends it until it is answered.
func (f *Fleet) Command(
	ctx context.Context,
	who, target, name string,
	args json.RawMessage,
	life time.Duration,
) (registry.Command, error) {
	var c registry.Command
	if !mqttwire.KnownCommand(name) {
		return c, fmt.Errorf("%w: command %q", ErrBad, name)
	}
	if life == 0 {
		life = 24 * time.Hour
	}
	if life < time.Second || life > maxCommandLife {
		return c, fmt.Errorf("%w: a command lives from 1s to %s", ErrBad, maxCommandLife)
	}
	payload, err := mqttwire.Encode(mqttwire.MaxPayload, &mqttwire.Command{V: mqttwire.Version, Name: name, Args: args})
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrBad, err)
	}
	boxes, err := f.boxesOf(ctx, target)
	if err != nil {
		return c, err
	}
	now := f.now().UTC()
	var id [12]byte
	_, _ = rand.Read(id[:])
	c = registry.Command{
		ID: hex.EncodeToString(id[:]), Target: target, Name: name, Args: string(args), Created: now, Expires: now.Add(life),
		Who: who, Boxes: len(boxes), Counts: map[string]int{},
	}
	messages := make(map[string][]byte, len(boxes))
	for _, box := range boxes {
		messages[box], err = ops.SignMessage(f.o.OpsKey, ops.Message{
			Fleet: f.o.ID, To: box, Kind: "command", ID: c.ID, Issued: now, Expires: c.Expires, Payload: payload,
		})
		if err != nil {
			return c, fmt.Errorf("sign command: %w", err)
		}
	}
	if err := f.o.Registry.AddCommand(ctx, c, messages); err != nil {
		return c, err
	}
	if err := f.o.Registry.Audit(ctx, who, "command "+name, target, c.ID+" "+string(args)); err != nil {
		return c, err
	}
	return c, f.sendCommands(ctx, "")
}

func (f *Fleet) boxesOf(ctx context.Context, target string) ([]string, error) {
	group, isGroup := groupTarget(target)
	if !isGroup {
		if _, err := f.o.Registry.Box(ctx, target); err != nil {
			return nil, err
		}
		return []string{target}, nil
	}
	var ids []string
	for after := ""; ; {
		page, err := f.o.Registry.Boxes(ctx, registry.BoxFilter{Group: group, After: after, Brief: true, Limit: 5000})
		if err != nil {
			return nil, err
		}
		for _, b := range page {
			ids = append(ids, b.ID)
		}
		if len(page) < 5000 {
			break
		}
		after = page[len(page)-1].ID
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("group %q has no boxes: %w", group, registry.ErrNotFound)
	}
	return ids, nil
}

// sendCommands sends what is due: all of one box that has just come online, or whatever was not answered for a while.
func (f *Fleet) sendCommands(ctx context.Context, box string) error {
	for {
		due, err := f.o.Registry.DueCommands(ctx, box, f.now().Add(-resendAfter), 1000)
		if err != nil {
			return err
		}
		for _, d := range due {
			if err := f.o.Bus.Send(mqttwire.BoxTopic(f.o.ID, d.Box, mqttwire.CommandTail(d.ID)), d.Message); err != nil {
				return err
			}
		}
		if box != "" || len(due) < 1000 {
			return nil
		}
	}
}
