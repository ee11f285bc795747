package control

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Command is something that is asked of the box.
type Command struct {
	ID   string          `json:"id"` // repeated ids get the first answer again; may be empty for a local command
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
}

// Status is how a command ended.
type Status string

// The ends of a command.
const (
	Done    Status = "done"
	NotDone Status = "failed"
)

// Result is the answer to a command.
type Result struct {
	Status Status          `json:"status"`
	Code   string          `json:"code,omitempty"` // kebab-case when failed, see the Code constants
	Text   string          `json:"text,omitempty"` // one sentence
	Data   json.RawMessage `json:"data,omitempty"`
}

// The codes of failed commands.
const (
	CodeUnknown     = "unknown-command"
	CodeBadArgs     = "bad-arguments"
	CodeNoAsset     = "no-such-asset"
	CodeInUse       = "in-use"
	CodePinned      = "pinned"
	CodeTimeout     = "timeout"
	CodeFailed      = "failed"
	CodeUnavailable = "unavailable" // the service is not there yet
)

// Commands lists what Do knows, with one line of help each.
func Commands() map[string]string {
	return map[string]string{
		"refresh":           "look at the catalog now",
		"pin":               "keep an asset whatever the policy says",
		"unpin":             "let policy decide about an asset again",
		"evict":             "remove an asset from the cache",
		"verify":            "read an asset back and check every piece",
		"pause":             "stop fetching",
		"resume":            "fetch again",
		"log-tail":          "the last lines of the log",
		"diagnose":          "run the doctor's checks",
		"set-limits":        "narrow the limits of the access line",
		"renew-certificate": "ask for a new certificate now",
	}
}

// AssetArgs are the arguments of pin, unpin, evict and verify.
type AssetArgs struct {
	Asset string `json:"asset"` // id, name, or an unambiguous beginning of one
}

// LimitArgs are the arguments of set-limits: bytes a second, 0 stops, null lifts what set-limits narrowed. The
// configuration's own limits cannot be passed.
type LimitArgs struct {
	WANDown *int64 `json:"wan_down"`
	WANUp   *int64 `json:"wan_up"`
}

// LogArgs are the arguments of log-tail.
type LogArgs struct {
	Lines int `json:"lines"` // 0 means 100
}

func failed(code, format string, args ...any) Result {
	return Result{Status: NotDone, Code: code, Text: fmt.Sprintf(format, args...)}
}

func done(text string, data any) Result {
	r := Result{Status: Done, Text: text}
	if data != nil {
		b, err := json.Marshal(data)
		if err != nil {
			return failed(CodeFailed, "encode the answer: %v", err)
		}
		r.Data = b
	}
	return r
}

// ErrArgs is wrapped by the error of bad arguments.
var ErrArgs = errors.New("bad arguments")
