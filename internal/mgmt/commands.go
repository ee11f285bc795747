package mgmt

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"boxd/internal/mqttwire"
)

const (
	maxCommands  = 512 // ids that are remembered; one is forgotten only after it expired
	commandQueue = 16  // verified commands that wait for the worker

	// An answer that is asked for again costs a write, and a broker may repeat what was signed as often as it likes: this
	// many at once, then one in this time.
	repeatBurst = 16
	repeatEvery = 10 * time.Second
)

// commandRecord is what state.db remembers of a command id.
type commandRecord struct {
	Name    string               `json:"name"`
	Expires time.Time            `json:"expires"`
	Answer  *mqttwire.CommandAck `json:"answer,omitempty"` // nil while it runs
}

// commands runs verified commands, the short ones one at a time and beside them the long ones one at a time, each id at most
// once: the id is committed before it runs, and one that
// was running when the power went is answered as interrupted rather than run again.
type commands struct {
	m     *Manager
	queue chan Message
	slow  chan Message // those that take long, so that a pause or an eviction does not wait behind them
	// accepted is told of each command that was taken, so that the session can say so; it may drop.
	accepted chan mqttwire.CommandAck

	mu      sync.Mutex // guards repeats
	repeats time.Time  // when the allowance of repeated answers is whole again
}

func newCommands(m *Manager) *commands {
	return &commands{
		m: m, queue: make(chan Message, commandQueue), slow: make(chan Message, commandQueue),
		accepted: make(chan mqttwire.CommandAck, commandQueue),
	}
}

// offer takes a verified command without blocking; when the queue is full the fleet manager will send it again.
func (c *commands) offer(msg Message) {
	queue := c.queue
	if cmd, err := mqttwire.DecodeCommand(msg.Payload); err == nil && takesLong(cmd.Name) {
		queue = c.slow
	}
	select {
	case queue <- msg:
	default:
		c.m.o.Log.Warn("command queue full", "command", msg.ID)
	}
}

// takesLong names the commands that read the whole disk or wait for the network.
func takesLong(name string) bool { return name == "verify" || name == "diagnose" }

// run works on both queues until ctx ends or one fails.
func (c *commands) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	slow := make(chan error, 1)
	go func() {
		defer cancel()
		slow <- c.work(ctx, c.slow)
	}()
	err := c.work(ctx, c.queue)
	cancel()
	return errors.Join(err, <-slow)
}

func (c *commands) work(ctx context.Context, queue <-chan Message) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-queue:
			if err := c.handle(ctx, msg); err != nil {
				return err
			}
		}
	}
}

func (c *commands) handle(ctx context.Context, msg Message) error {
	cmd, perr := mqttwire.DecodeCommand(msg.Payload)
	name := ""
	if cmd != nil {
		name = cmd.Name
	}
	fresh, err := c.begin(msg, name)
	if err != nil || !fresh {
		return err
	}
	var res Result
	switch {
	case perr != nil:
		res = Result{Code: "bad-command", Text: perr.Error()}
	case !mqttwire.KnownCommand(name):
		res = Result{Code: "unknown-command", Text: "this version does not know the command " + name}
	default:
		select {
		case c.accepted <- mqttwire.CommandAck{ID: msg.ID, Name: name, Status: mqttwire.StatusAccepted}:
		default:
		}
		c.m.o.Log.Info("command", "command", msg.ID, "name", name)
		res = c.m.o.Box.Do(ctx, Command{ID: msg.ID, Name: name, Args: cmd.Args})
		if ctx.Err() != nil && res.Code != "" {
			return nil // stopping: the next start answers it as interrupted
		}
	}
	return c.finish(ctx, msg.ID, name, res)
}

// look reads what is known of an id, and whether work is to be committed for it: a replay must not cost a write.
func (c *commands) look(id string, now time.Time) (known, due bool, err error) {
	err = c.m.o.DB.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketCommands))
		if b == nil {
			due = true
			return nil
		}
		v := b.Get([]byte(id))
		if v == nil {
			n, old, err := expired(b, now)
			due = n-len(old) < maxCommands
			return err
		}
		known = true
		var rec commandRecord
		if json.Unmarshal(v, &rec) == nil && rec.Answer != nil {
			ob := tx.Bucket([]byte(bucketOutbox))
			due = ob == nil || ob.Get(key64(rec.Answer.Evt)) == nil
		}
		return nil
	})
	return known, due, err
}

// mayRepeat takes one from the allowance of repeated answers.
func (c *commands) mayRepeat(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.repeats.Before(now) {
		c.repeats = now
	}
	if c.repeats.Sub(now) > (repeatBurst-1)*repeatEvery {
		return false
	}
	c.repeats = c.repeats.Add(repeatEvery)
	return true
}

// begin commits the id. It reports false for an id that was seen: one that has an answer is answered again, now or, when
// many are asked for, at a later repeat.
func (c *commands) begin(msg Message, name string) (fresh bool, err error) {
	now, _ := c.m.o.Now()
	known, due, err := c.look(msg.ID, now)
	if err != nil || !due || known && !c.mayRepeat(time.Now()) {
		return false, dbErr("look for command", err)
	}
	again := false
	err = c.m.o.DB.Update(func(tx *bbolt.Tx) error {
		fresh, again = false, false
		b, err := bucket(tx, bucketCommands)
		if err != nil {
			return err
		}
		if v := b.Get([]byte(msg.ID)); v != nil {
			var rec commandRecord
			if json.Unmarshal(v, &rec) == nil && rec.Answer != nil {
				again, err = c.requeue(tx, b, msg.ID, rec)
			}
			return err
		}
		if ok, err := makeRoom(b, now); err != nil || !ok {
			return err
		}
		data, err := json.Marshal(commandRecord{Name: name, Expires: msg.Expires})
		if err != nil {
			return err
		}
		fresh = true
		return b.Put([]byte(msg.ID), data)
	})
	if again {
		c.m.outbox.added(1)
	}
	return fresh, dbErr("begin command", err)
}

// requeue puts an answer that the fleet manager asks for again back into the outbox, unless it is still there.
func (c *commands) requeue(tx *bbolt.Tx, b *bbolt.Bucket, id string, rec commandRecord) (bool, error) {
	ob, err := bucket(tx, bucketOutbox)
	if err != nil || ob.Get(key64(rec.Answer.Evt)) != nil {
		return false, err
	}
	if _, err := c.m.outbox.add(tx, outboxRecord{Answer: rec.Answer}); err != nil {
		return false, err
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return false, err
	}
	return true, b.Put([]byte(id), data)
}

// expired counts the ids and names those that may be forgotten.
func expired(b *bbolt.Bucket, now time.Time) (n int, old [][]byte, err error) {
	err = b.ForEach(func(k, v []byte) error {
		n++
		var rec commandRecord
		if json.Unmarshal(v, &rec) != nil || rec.Answer != nil && now.After(rec.Expires.Add(time.Hour)) {
			old = append(old, append([]byte(nil), k...))
		}
		return nil
	})
	return n, old, err
}

// makeRoom forgets expired ids when there are many. An id that has not expired is never forgotten, since it could then
// run twice: with 512 of those, new commands wait.
func makeRoom(b *bbolt.Bucket, now time.Time) (bool, error) {
	n, old, err := expired(b, now)
	if err != nil || n < maxCommands {
		return err == nil, err
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return false, err
		}
	}
	return n-len(old) < maxCommands, nil
}

// finish commits the answer and its place in the outbox together.
func (c *commands) finish(ctx context.Context, id, name string, res Result) error {
	ack := &mqttwire.CommandAck{
		ID: id, Name: clip(name, 64), Status: mqttwire.StatusDone, Data: res.Data,
		Text: clip(res.Text, mqttwire.MaxText),
	}
	if res.Code != "" {
		ack.Status, ack.Code = mqttwire.StatusFailed, clip(res.Code, 64)
	}
	if len(ack.Data) > mqttwire.MaxData {
		ack.Data = c.m.uploadResult(ctx, id, ack.Data)
	}
	err := c.m.o.DB.Update(func(tx *bbolt.Tx) error {
		b, err := bucket(tx, bucketCommands)
		if err != nil {
			return err
		}
		if _, err := c.m.outbox.add(tx, outboxRecord{Answer: ack}); err != nil {
			return err
		}
		rec := commandRecord{Name: name, Answer: ack}
		var old commandRecord
		if v := b.Get([]byte(id)); v != nil && json.Unmarshal(v, &old) == nil {
			rec.Expires = old.Expires
		}
		data, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		return b.Put([]byte(id), data)
	})
	if err != nil {
		return dbErr("finish command", err)
	}
	c.m.outbox.added(1)
	return nil
}

// answerInterrupted answers the commands that were running when the daemon last stopped.
func (c *commands) answerInterrupted() error {
	open := map[string]string{}
	err := c.m.o.DB.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketCommands))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			var rec commandRecord
			if json.Unmarshal(v, &rec) == nil && rec.Answer == nil {
				open[string(k)] = rec.Name
			}
			return nil
		})
	})
	errs := []error{dbErr("find interrupted commands", err)}
	for id, name := range open {
		errs = append(errs, c.finish(context.Background(), id, name, Result{
			Code: "interrupted", Text: "the daemon stopped while the command ran; send a new one to try again",
		}))
	}
	return errors.Join(errs...)
}
