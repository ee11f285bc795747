// Package keyfile reads and writes private keys as PKCS#8 PEM files, if wanted encrypted with a passphrase in the standard's
// form (RFC 8018 PBES2: PBKDF2 with SHA-256, AES-256-CBC), so that openssl can read them without this program, and
// splits a passphrase among several people.
//
// Invariants: a key is written durably and never over another one unless the caller removed that; an error never
// has a key or a passphrase in its text.
package keyfile

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
)

// ErrPassphrase is returned for an encrypted key when the passphrase is missing or wrong.
var ErrPassphrase = errors.New("the key is encrypted, and the passphrase is missing or wrong")

// kdfRounds follows OWASP's figure for PBKDF2 with SHA-256; a passphrase of NewPassphrase cannot be guessed and needs no
// stretching.
const (
	kdfRounds    = 600_000
	strongRounds = 10_000
	maxKdfRounds = 10_000_000
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42} // CBC
)

// The forms of an encrypted PKCS#8 key (RFC 5958, RFC 8018 appendix A), which openssl reads and writes as well.
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Cipher pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt   []byte
	Rounds int
	KeyLen int `asn1:"optional"`
	PRF    pkix.AlgorithmIdentifier
}

// Encode writes a key as PKCS#8, encrypted when there is a passphrase.
func Encode(key crypto.Signer, passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	if len(passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
	if der, err = encryptKey(der, passphrase); err != nil {
		return nil, fmt.Errorf("encrypt key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), nil
}

func encryptKey(der, passphrase []byte) ([]byte, error) {
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	for _, b := range [][]byte{salt, iv} {
		if _, err := rand.Read(b); err != nil {
			return nil, err
		}
	}
	rounds := kdfRounds
	if raw, err := base32Lower.DecodeString(string(passphrase)); err == nil && len(raw) == secretSize {
		rounds = strongRounds
	}
	block, err := cipherFor(passphrase, salt, rounds)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(der)%aes.BlockSize
	for range pad {
		der = append(der, byte(pad))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(der, der)
	null := asn1.RawValue{Tag: asn1.TagNull}
	kdf, err := asn1.Marshal(pbkdf2Params{
		Salt: salt, Rounds: rounds,
		PRF: pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: null},
	})
	if err != nil {
		return nil, err
	}
	rawIV, err := asn1.Marshal(iv)
	if err != nil {
		return nil, err
	}
	params, err := asn1.Marshal(pbes2Params{
		KDF:    pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: asn1.RawValue{FullBytes: kdf}},
		Cipher: pkix.AlgorithmIdentifier{Algorithm: oidAES256, Parameters: asn1.RawValue{FullBytes: rawIV}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(encryptedKey{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: asn1.RawValue{FullBytes: params}}, Data: der,
	})
}

func decryptKey(der, passphrase []byte) ([]byte, error) {
	unknown := errors.New("the key is encrypted in a way that is not understood; want PBES2, PBKDF2 with SHA-256, AES-256-CBC")
	var enc encryptedKey
	var params pbes2Params
	var kdf pbkdf2Params
	var iv []byte
	if _, err := asn1.Unmarshal(der, &enc); err != nil || !enc.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, unknown
	}
	if _, err := asn1.Unmarshal(enc.Algorithm.Parameters.FullBytes, &params); err != nil ||
		!params.KDF.Algorithm.Equal(oidPBKDF2) || !params.Cipher.Algorithm.Equal(oidAES256) {
		return nil, unknown
	}
	if _, err := asn1.Unmarshal(params.KDF.Parameters.FullBytes, &kdf); err != nil ||
		!kdf.PRF.Algorithm.Equal(oidSHA256) || kdf.Rounds < 1 || kdf.Rounds > maxKdfRounds {
		return nil, unknown
	}
	if _, err := asn1.Unmarshal(params.Cipher.Parameters.FullBytes, &iv); err != nil || len(iv) != aes.BlockSize ||
		len(enc.Data) == 0 || len(enc.Data)%aes.BlockSize != 0 {
		return nil, unknown
	}
	block, err := cipherFor(passphrase, kdf.Salt, kdf.Rounds)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(enc.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, enc.Data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > aes.BlockSize {
		return nil, ErrPassphrase
	}
	return plain[:len(plain)-pad], nil
}

func cipherFor(passphrase, salt []byte, rounds int) (cipher.Block, error) {
	key, err := pbkdf2.Key(sha256.New, string(passphrase), salt, rounds, 32)
	if err != nil {
		return nil, err
	}
	return aes.NewCipher(key)
}

// Decode reads the first PEM block of a file, which must be a private key. For an encrypted key a missing or wrong passphrase is
// ErrPassphrase; for a plain one the passphrase does not matter.
func Decode(data, passphrase []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the file does not begin with a private key")
	}
	der := block.Bytes
	encrypted := block.Type == "ENCRYPTED PRIVATE KEY"
	if encrypted {
		if len(passphrase) == 0 {
			return nil, ErrPassphrase
		}
		var err error
		if der, err = decryptKey(der, passphrase); err != nil {
			return nil, err
		}
	} else if block.Type != "PRIVATE KEY" {
		return nil, errors.New("the file does not begin with a private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil && encrypted {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", parsed)
	}
	return key, nil
}

// Encrypted reports whether a file begins with an encrypted private key, and whether it begins with a private key at all.
func Encrypted(data []byte) (encrypted, isKey bool) {
	block, _ := pem.Decode(data)
	if block == nil {
		return false, false
	}
	encrypted = block.Type == "ENCRYPTED PRIVATE KEY"
	return encrypted, encrypted || block.Type == "PRIVATE KEY"
}
