package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
)

// The media types of RFC 7030, section 4.2.
const (
	TypeCSR   = "application/pkcs10"
	TypeCerts = "application/pkcs7-mime"
)

var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
)

// contentInfo and signedData are the two layers of a certs-only CMS message (RFC 5652 section 5, RFC 7030 section 4.1.3).
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0,optional"`
}

type signedData struct {
	Version      int
	Digests      asn1.RawValue
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	CRLs         asn1.RawValue `asn1:"optional,tag:1"`
	Signers      asn1.RawValue
}

// EncodeCerts writes certificates as the base64 of a certs-only CMS message: the answer of every EST operation here.
func EncodeCerts(certs []*x509.Certificate) ([]byte, error) {
	var raw []byte
	for _, c := range certs {
		raw = append(raw, c.Raw...)
	}
	empty := asn1.RawValue{Tag: asn1.TagSet, IsCompound: true}
	inner, err := asn1.Marshal(signedData{
		Version: 1, Digests: empty, Content: contentInfo{Type: oidData},
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: raw},
		Signers:      empty,
	})
	if err != nil {
		return nil, fmt.Errorf("encode certificates: %w", err)
	}
	der, err := asn1.Marshal(contentInfo{
		Type:    oidSignedData,
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner},
	})
	if err != nil {
		return nil, fmt.Errorf("encode certificates: %w", err)
	}
	return encode64(der), nil
}

// ParseCerts reads what EncodeCerts writes: at most MaxBody bytes with 1 to MaxChain certificates.
func ParseCerts(body []byte) ([]*x509.Certificate, error) {
	der, err := decode64(body)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	var outer contentInfo
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 || !outer.Type.Equal(oidSignedData) {
		return nil, errors.New("certificates: not a signed-data message")
	}
	var sd signedData
	if rest, err := asn1.Unmarshal(outer.Content.Bytes, &sd); err != nil || len(rest) > 0 {
		return nil, errors.New("certificates: the signed-data message is damaged")
	}
	certs, err := x509.ParseCertificates(sd.Certificates.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if len(certs) == 0 || len(certs) > MaxChain {
		return nil, fmt.Errorf("certificates: the message holds %d of them", len(certs))
	}
	return certs, nil
}

// EncodeCSR writes a certificate request as EST wants it in a body.
func EncodeCSR(der []byte) []byte { return encode64(der) }

// ParseCSR reads the body of an enrolment: at most MaxBody bytes, base64 of a PKCS#10 request (RFC 2986) with a
// P-256 key, signed with that key. Whatever else it asks for is left to the caller to ignore.
func ParseCSR(body []byte) (*x509.CertificateRequest, error) {
	der, err := decode64(body)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("certificate request: want a P-256 key")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: it is not signed with its own key: %w", err)
	}
	return csr, nil
}

func encode64(der []byte) []byte {
	const line = 64
	text := base64.StdEncoding.EncodeToString(der)
	var b bytes.Buffer
	for len(text) > line {
		b.WriteString(text[:line] + "\n")
		text = text[line:]
	}
	b.WriteString(text + "\n")
	return b.Bytes()
}

// decode64 takes base64 with any line breaks, as RFC 8951 asks of a receiver.
func decode64(body []byte) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%d bytes, at most %d are taken", len(body), MaxBody)
	}
	der, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(body), nil)))
	if err != nil {
		return nil, err
	}
	if len(der) == 0 {
		return nil, errors.New("it is empty")
	}
	return der, nil
}
