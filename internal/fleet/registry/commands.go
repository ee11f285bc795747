package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Command is an order to one box or to a group.
type Command struct {
	ID      string         `json:"id"`
	Target  string         `json:"target"` // a box, or "group:<name>"
	Name    string         `json:"name"`
	Args    string         `json:"args,omitempty"`
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
	Who     string         `json:"who"`
	Boxes   int            `json:"boxes"`
	Counts  map[string]int `json:"counts"` // boxes by status; "" in the table is "waiting" here
	Answers []Answer       `json:"answers,omitempty"`
}

// Answer is how one box stands with a command.
type Answer struct {
	Box    string          `json:"box"`
	Status string          `json:"status"` // waiting, accepted, done, failed, expired
	Code   string          `json:"code,omitempty"`
	Text   string          `json:"text,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	At     time.Time       `json:"at,omitzero"`
}

// AddCommand stores a command with its signed message for each box before anything is sent.
func (g *Registry) AddCommand(ctx context.Context, c Command, messages map[string][]byte) error {
	return g.update(ctx, false, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, g.q("INSERT INTO commands (id, target, name, args, created, expires, who, boxes) VALUES ("+
			marks(8)+")"), c.ID, c.Target, c.Name, c.Args, ms(c.Created), ms(c.Expires), c.Who, len(messages))
		if err != nil {
			return fmt.Errorf("add command %s: %w", c.ID, err)
		}
		for box, msg := range messages {
			_, err := tx.ExecContext(ctx, g.q("INSERT INTO command_boxes (id, box, status, code, text, at, expires, sent, message) "+
				"VALUES (?, ?, '', '', '', 0, ?, 0, ?)"), c.ID, box, ms(c.Expires), msg)
			if err != nil {
				return fmt.Errorf("add command %s for %s: %w", c.ID, box, err)
			}
		}
		return nil
	})
}

// Outgoing is a command that must be sent, or sent again.
type Outgoing struct {
	ID, Box string
	Message []byte
}

// HaveCommands returns those of the boxes that have commands which they did not answer. Most boxes that come online have
// none: thousands of them must not queue for the writer, nor ask one by one.
func (g *Registry) HaveCommands(ctx context.Context, boxes []string) ([]string, error) {
	var have []string
	for rest := boxes; len(rest) > 0; {
		n := min(len(rest), 500)
		args := []any{ms(g.now())}
		for _, id := range rest[:n] {
			args = append(args, id)
		}
		rest = rest[n:]
		rows, err := g.r.QueryContext(ctx, g.q("SELECT DISTINCT box FROM command_boxes WHERE status IN ('', 'accepted') AND "+
			"expires > ? AND box IN ("+marks(n)+")"), args...)
		if err != nil {
			return nil, fmt.Errorf("boxes with commands: %w", err)
		}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				_ = rows.Close()
				return nil, fmt.Errorf("boxes with commands: %w", err)
			}
			have = append(have, id)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, fmt.Errorf("boxes with commands: %w", err)
		}
	}
	return have, nil
}

// DueCommands returns commands of online boxes that were not answered and not sent since before, and notes them as sent
// now. box narrows it to one box; then the time is not looked at.
func (g *Registry) DueCommands(ctx context.Context, box string, before time.Time, limit int) ([]Outgoing, error) {
	var list []Outgoing
	err := g.update(ctx, false, func(tx *sql.Tx) error {
		list = nil
		query := "SELECT c.id, c.box, c.message FROM command_boxes c JOIN boxes b ON b.id = c.box WHERE c.status IN ('', 'accepted') " +
			"AND c.expires > ? AND b.online = 1"
		args := []any{ms(g.now())}
		if box != "" {
			query += " AND c.box = ?"
			args = append(args, box)
		} else {
			query += " AND c.sent < ?"
			args = append(args, ms(before))
		}
		rows, err := tx.QueryContext(ctx, g.q(query+" ORDER BY c.sent LIMIT ?"), append(args, limit)...)
		if err != nil {
			return fmt.Errorf("due commands: %w", err)
		}
		for rows.Next() {
			var o Outgoing
			if err := rows.Scan(&o.ID, &o.Box, &o.Message); err != nil {
				_ = rows.Close()
				return fmt.Errorf("due commands: %w", err)
			}
			list = append(list, o)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("due commands: %w", err)
		}
		for _, o := range list {
			if _, err := tx.ExecContext(
				ctx,
				g.q("UPDATE command_boxes SET sent = ? WHERE box = ? AND id = ?"),
				ms(g.now()),
				o.Box,
				o.ID,
			); err != nil {
				return fmt.Errorf("due commands: %w", err)
			}
		}
		return nil
	})
	return list, err
}

// Commands returns the newest commands.
func (g *Registry) Commands(ctx context.Context, limit int) ([]Command, error) {
	rows, err := g.r.QueryContext(ctx, g.q("SELECT id, target, name, args, created, expires, who, boxes FROM commands "+
		"ORDER BY created DESC, id LIMIT ?"), limit)
	if err != nil {
		return nil, fmt.Errorf("list commands: %w", err)
	}
	list := []Command{}
	for rows.Next() {
		var c Command
		var created, expires int64
		if err := rows.Scan(&c.ID, &c.Target, &c.Name, &c.Args, &created, &expires, &c.Who, &c.Boxes); err != nil {
			_ = rows.Close()
			return nil, fmt.Errorf("list commands: %w", err)
		}
		c.Created, c.Expires, c.Counts = fromMS(created), fromMS(expires), map[string]int{}
		list = append(list, c)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("list commands: %w", err)
	}
	for i := range list {
		if err := g.countAnswers(ctx, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (g *Registry) countAnswers(ctx context.Context, c *Command) error {
	rows, err := g.r.QueryContext(ctx, g.q("SELECT status, COUNT(*) FROM command_boxes WHERE id = ? GROUP BY status"), c.ID)
	if err != nil {
		return fmt.Errorf("count answers: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var status string
		var n int
		if err := rows.Scan(&status, &n); err != nil {
			return fmt.Errorf("count answers: %w", err)
		}
		c.Counts[g.statusWord(status, c.Expires)] += n
	}
	return rows.Err()
}

func (g *Registry) statusWord(s string, expires time.Time) string {
	switch {
	case (s == "" || s == "accepted") && g.now().After(expires):
		return "expired"
	case s == "":
		return "waiting"
	}
	return s
}

// Command returns one command with its answers.
func (g *Registry) Command(ctx context.Context, id string) (Command, error) {
	c := Command{ID: id, Counts: map[string]int{}}
	var created, expires int64
	err := g.r.QueryRowContext(ctx, g.q("SELECT target, name, args, created, expires, who, boxes FROM commands WHERE id = ?"), id).
		Scan(&c.Target, &c.Name, &c.Args, &created, &expires, &c.Who, &c.Boxes)
	if errors.Is(err, sql.ErrNoRows) {
		return c, fmt.Errorf("command %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return c, fmt.Errorf("command %s: %w", id, err)
	}
	c.Created, c.Expires = fromMS(created), fromMS(expires)
	rows, err := g.r.QueryContext(
		ctx,
		g.q("SELECT box, status, code, text, data, at FROM command_boxes WHERE id = ? ORDER BY box"),
		id,
	)
	if err != nil {
		return c, fmt.Errorf("command %s: %w", id, err)
	}
	defer rows.Close()
	for rows.Next() {
		var a Answer
		var data []byte
		var at int64
		if err := rows.Scan(&a.Box, &a.Status, &a.Code, &a.Text, &data, &at); err != nil {
			return c, fmt.Errorf("command %s: %w", id, err)
		}
		a.Status, a.Data, a.At = g.statusWord(a.Status, c.Expires), data, fromMS(at)
		c.Counts[a.Status]++
		c.Answers = append(c.Answers, a)
	}
	return c, rows.Err()
}
