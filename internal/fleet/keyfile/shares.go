package keyfile

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// A passphrase is split after Shamir over GF(2^8): any k of n shares give it back, fewer say nothing about it. A
// share is "bk1-<k>-<number>-<data>-<check>", in characters that can be read over a telephone.
const (
	sharePrefix = "bk1"
	maxShares   = 16
	secretSize  = 20 // bytes, 160 bits
	checkSize   = 2
	headSize    = 3 // of the secret's hash, kept beside it so that a wrong set of shares is found out
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ErrShares is returned for shares that do not belong together, are damaged or too few.
var ErrShares = errors.New("these shares do not give the passphrase")

// NewPassphrase makes a passphrase with 160 bits in it.
func NewPassphrase() ([]byte, error) {
	raw := make([]byte, secretSize)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	return []byte(base32Lower.EncodeToString(raw)), nil
}

// Split shares a passphrase of NewPassphrase among n people so that any k of them can tell it.
func Split(passphrase []byte, n, k int) ([]string, error) {
	secret, err := base32Lower.DecodeString(string(passphrase))
	if err != nil || len(secret) != secretSize {
		return nil, errors.New("only a passphrase that was made here can be split")
	}
	if k < 1 || n < k || n > maxShares {
		return nil, fmt.Errorf("%d of %d shares: want 1 ≤ needed ≤ all ≤ %d", k, n, maxShares)
	}
	sum := sha256.Sum256(secret)
	secret = append(secret, sum[:headSize]...)
	coeff := make([]byte, len(secret)*(k-1)) // k-1 random coefficients for each byte
	if _, err := rand.Read(coeff); err != nil {
		return nil, err
	}
	shares := make([]string, n)
	for i := range n {
		x := byte(i + 1)
		y := make([]byte, len(secret))
		for b := range secret {
			v := byte(0)
			for c := k - 2; c >= 0; c-- {
				v = mul(v^coeff[b*(k-1)+c], x)
			}
			y[b] = v ^ secret[b]
		}
		body := fmt.Sprintf("%s-%d-%d-%s", sharePrefix, k, x, base32Lower.EncodeToString(y))
		shares[i] = body + "-" + check(body)
	}
	return shares, nil
}

// Join gives the passphrase back from at least as many shares as are needed.
func Join(shares []string) ([]byte, error) {
	if len(shares) > maxShares {
		return nil, fmt.Errorf("%w: too many", ErrShares)
	}
	points, need := map[byte][]byte{}, 0
	for _, s := range shares {
		k, x, y, err := parseShare(s)
		if err != nil {
			return nil, err
		}
		if need != 0 && k != need {
			return nil, fmt.Errorf("%w: they are of different sets", ErrShares)
		}
		need = k
		points[x] = y
	}
	if need == 0 || len(points) < need {
		return nil, fmt.Errorf("%w: %d different ones are here, %d are needed", ErrShares, len(points), need)
	}
	secret := make([]byte, secretSize+headSize)
	for xi, yi := range points {
		l := byte(1) // the Lagrange polynomial of xi at 0
		for xj := range points {
			if xj != xi {
				l = mul(l, mul(xj, inverse(xj^xi)))
			}
		}
		for b := range secret {
			secret[b] ^= mul(l, yi[b])
		}
	}
	sum := sha256.Sum256(secret[:secretSize])
	if string(sum[:headSize]) != string(secret[secretSize:]) {
		return nil, fmt.Errorf("%w: they are of different sets", ErrShares)
	}
	return []byte(base32Lower.EncodeToString(secret[:secretSize])), nil
}

func parseShare(s string) (k int, x byte, y []byte, err error) {
	s = strings.ToLower(strings.TrimSpace(s))
	bad := fmt.Errorf("%w: %.10q… is mistyped", ErrShares, s)
	cut := strings.LastIndexByte(s, '-')
	if cut < 0 || check(s[:cut]) != s[cut+1:] {
		return 0, 0, nil, bad
	}
	var num int
	var data string
	if n, _ := fmt.Sscanf(strings.ReplaceAll(s[:cut], "-", " "), sharePrefix+" %d %d %s", &k, &num, &data); n != 3 {
		return 0, 0, nil, bad
	}
	y, err = base32Lower.DecodeString(data)
	if err != nil || len(y) != secretSize+headSize || k < 1 || k > maxShares || num < 1 || num > maxShares {
		return 0, 0, nil, bad
	}
	return k, byte(num), y, nil
}

func check(body string) string {
	sum := sha256.Sum256([]byte("boxd key share " + body))
	return base32Lower.EncodeToString(sum[:checkSize])
}

// mul multiplies in GF(2^8) modulo x^8+x^4+x^3+x+1.
func mul(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return p
}

// inverse is a^254.
func inverse(a byte) byte {
	b := mul(a, a)
	r := b
	for range 6 {
		b = mul(b, b)
		r = mul(r, b)
	}
	return r
}
