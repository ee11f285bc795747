package catalog

import (
	"errors"
	"fmt"

	"boxd/internal/health"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The health codes of this package, which are also the codes of Error.
const (
	CodeUnreachable = "catalog-unreachable"    // the server does not answer, or not in time
	CodeIncomplete  = "catalog-incomplete"     // a file is missing, too long or not what the catalog says
	CodeSignature   = "catalog-signature"      // not signed by who must sign it
	CodeRollback    = "catalog-rollback"       // older than what this box has seen
	CodeExpired     = "catalog-expired"        // nothing newer than the expired catalog is offered
	CodeInvalid     = "catalog-invalid"        // signed, but not in the form that this program reads
	CodeStore       = "catalog-store"          // the disk did not take it
	CodeAsset       = "catalog-asset-rejected" // a campaign names an asset that cannot be believed
)

// Error is why a refresh failed. The last good catalog stays.
type Error struct {
	Code string // one of the Code constants
	Op   string // what was done, with the object
	Err  error
}

// Error says the operation and the cause.
func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(code, op string, err error) error { return &Error{Code: code, Op: op, Err: err} }

// CodeOf is the health code of an error of Refresh.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeUnreachable
}

// tufCode sorts an error of go-tuf.
func tufCode(err error) string {
	switch {
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return CodeExpired
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return CodeRollback
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		return CodeSignature
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		return CodeIncomplete
	case errors.Is(err, &metadata.ErrRepository{}):
		return CodeRollback // a role vanished from the snapshot: mix and match
	default:
		return CodeInvalid
	}
}

// guard runs a step of go-tuf. It follows pointers that a signed but malicious file can make nil, so its panics are
// errors here: a stolen key must not be able to stop boxes.
func guard(op string, step func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fail(CodeInvalid, op, fmt.Errorf("malformed metadata: %v", r))
		}
	}()
	if err := step(); err != nil {
		var own *Error
		if errors.As(err, &own) {
			return err
		}
		return fail(tufCode(err), op, err)
	}
	return nil
}

var advice = map[string]health.Warning{
	CodeUnreachable: {Severity: health.Warn, Action: "Check this box's network and the fleet server; it is tried again."},
	CodeIncomplete: {
		Severity: health.Warn,
		Action:   "Check that the fleet server's static files are complete and that no cache alters them.",
	},
	CodeSignature: {
		Severity: health.Critical,
		Action:   "Somebody may be tampering with the catalog, or its keys were changed without a new root. Keep the keys safe.",
	},
	CodeRollback: {
		Severity: health.Critical,
		Action:   "The server offers an older catalog: a restored backup, a stale cache, or an attack.",
	},
	CodeExpired: {
		Severity: health.Critical,
		Action:   "Check that the fleet server signs the catalog and that this box's clock is right. Nothing new is fetched.",
	},
	CodeInvalid: {Severity: health.Critical, Action: "Update boxd, or correct what was published."},
	CodeStore:   {Severity: health.Critical, Action: "Check the state partition: full, read-only or failing."},
	CodeAsset:   {Severity: health.Warn, Action: "Publish the asset again, or take it out of the campaign."},
}

var refreshCodes = []string{
	CodeUnreachable, CodeIncomplete, CodeSignature, CodeRollback, CodeInvalid, CodeStore,
}

func raise(h *health.Set, code, text string) {
	w := advice[code]
	w.Code, w.Text = code, text
	h.Raise(w)
}
