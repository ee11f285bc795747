package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"boxd/internal/fleet/ca"
	"boxd/internal/identity/pki"
	"boxd/internal/mqttwire"
)

// CreateToken makes an enrolment token. The secret is shown once.
func (f *Fleet) CreateToken(ctx context.Context, who string, spec ca.TokenSpec) (string, ca.Token, error) {
	for _, id := range append(slices.Collect(maps.Values(spec.Devices)), spec.BoxID) {
		if id != "" && !mqttwire.ValidBox(id) {
			return "", ca.Token{}, fmt.Errorf("%w: a box cannot be called %.60q", ErrBad, id)
		}
	}
	secret, tok, err := f.o.CA.CreateToken(ctx, spec)
	if err != nil {
		return "", tok, fmt.Errorf("%w: %w", ErrBad, err)
	}
	return secret, tok, f.o.Registry.Audit(
		ctx,
		who,
		"create-token",
		tok.ID,
		fmt.Sprintf("group %s, %d uses", tok.Group, tok.MaxUses),
	)
}

// Tokens lists enrolment tokens without their secrets.
func (f *Fleet) Tokens(ctx context.Context) ([]ca.Token, error) {
	list, err := f.o.CA.Tokens(ctx)
	for i := range list {
		list[i].Hash = ""
	}
	return list, err
}

// RevokeToken makes a token worthless.
func (f *Fleet) RevokeToken(ctx context.Context, who, id string) error {
	if err := f.o.CA.RevokeToken(ctx, id); err != nil {
		return err
	}
	return f.o.Registry.Audit(ctx, who, "revoke-token", id, "")
}

// RevokeBox ends a box's membership: its certificates are revoked, the catalog says so, its connections are closed.
func (f *Fleet) RevokeBox(ctx context.Context, who, id, reason string) error {
	if err := f.o.CA.RevokeBox(ctx, id, reason); err != nil {
		return err
	}
	if err := f.o.Registry.Audit(ctx, who, "revoke-box", id, reason); err != nil {
		return err
	}
	_, kickErr := f.o.Bus.Kick(id)
	return errors.Join(kickErr, f.syncRevocations(ctx))
}

// ForgetBox deletes what is known of a box that was revoked, but for its proofs. Its name stays taken: the operator can give
// it to another box.
func (f *Fleet) ForgetBox(ctx context.Context, who, id string) error {
	box, err := f.o.CA.Box(ctx, id)
	if err != nil && !errors.Is(err, ca.ErrNoBox) {
		return err
	}
	if err == nil && box.Revoked.IsZero() {
		return fmt.Errorf("%w: box %s is a member: revoke it first", ErrConflict, id)
	}
	if err := f.o.Registry.ForgetBox(ctx, id); err != nil {
		return err
	}
	if err := f.o.Registry.DeleteDoc(ctx, tableWishes, id); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.wants, id)
	delete(f.groupOf, id) // when it comes back, it is a new one
	delete(f.newBoxes, id)
	delete(f.lastSeen, id)
	f.mu.Unlock()
	return f.o.Registry.Audit(ctx, who, "forget-box", id, "")
}

// MoveBox moves a box to another group; it renews its certificate for that.
func (f *Fleet) MoveBox(ctx context.Context, who, id, group string) error {
	if !pki.ValidLabel(group) {
		return fmt.Errorf("%w: group %.60q", ErrBad, group)
	}
	if err := f.o.CA.SetGroup(ctx, id, group); err != nil {
		return err
	}
	if err := f.o.Registry.Audit(ctx, who, "move-box", id, group); err != nil {
		return err
	}
	_, err := f.Command(ctx, who, id, "renew-certificate", nil, 7*24*time.Hour)
	return err
}
