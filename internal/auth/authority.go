package auth

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Files of the authority. Keys are needed by nobody but Init, Renew and RotateAuthority. The certificates of all that are
// trusted stand in one file; while the authority is exchanged these are two, and the next one's key has a file of its own
// until it signs.
const (
	authorityCert = "ca.pem"
	authorityKey  = "ca.key"
	authorityNext = "ca.key.new"
)

// authority signs the certificates of servers.
type authority struct {
	dir     string
	pem     []byte
	trusted []*x509.Certificate
	// cert is that of trusted which belongs to key.
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// next is the key that will sign; nil if there is none.
	next *ecdsa.PrivateKey
}

// openAuthority reads the authority of a directory, or makes it.
func openAuthority(dir, cluster string, r *Report) (*authority, error) {
	a := &authority{dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, authorityCert))
	if errors.Is(err, fs.ErrNotExist) {
		return a, a.create(cluster, r)
	}
	if err != nil {
		return nil, err
	}
	a.pem = data
	if a.trusted, err = parseCertificates(data); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", authorityCert, dir, err)
	}
	if a.key, err = readKey(filepath.Join(dir, authorityKey)); err != nil {
		return nil, err
	}
	if a.cert = a.of(a.key); a.cert == nil {
		return nil, fmt.Errorf("%s in %s: has no certificate of the key in %s", authorityCert, dir, authorityKey)
	}
	a.next, err = readKey(filepath.Join(dir, authorityNext))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.Kept = append(r.Kept, authorityCert, authorityKey)
	return a, nil
}

// of finds the certificate of a key; nil if it is not trusted.
func (a *authority) of(key *ecdsa.PrivateKey) *x509.Certificate {
	for _, c := range a.trusted {
		if key.PublicKey.Equal(c.PublicKey) {
			return c
		}
	}
	return nil
}

func (a *authority) create(cluster string, r *Report) error {
	key, keyPEM, err := newPrivateKey()
	if err != nil {
		return err
	}
	if err := a.trust(cluster, key); err != nil {
		return err
	}
	a.key, a.cert = key, a.trusted[0]
	r.Created = append(r.Created, authorityCert, authorityKey)
	return errors.Join(create(filepath.Join(a.dir, authorityKey), keyPEM), create(filepath.Join(a.dir, authorityCert), a.pem))
}

// trust adds a certificate of a key.
func (a *authority) trust(cluster string, key *ecdsa.PrivateKey) error {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Skein authority of " + cluster},
		NotBefore: time.Now().Add(-clockSkew), NotAfter: time.Now().Add(authorityFor),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	a.trusted, a.pem = append(a.trusted, cert), append(a.pem, encode(cert)...)
	return nil
}

func encode(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// RotateAuthority makes a second authority, which is trusted beside the first one and signs nothing yet: first all servers
// and processes must have both. Renew lets it sign, and FinishAuthority ends the trust in the first one.
func RotateAuthority(dir string) (*Report, error) {
	return withAuthority(dir, func(s *State, a *authority, r *Report) error {
		if len(a.trusted) > 1 {
			return nil // it is being exchanged already
		}
		if a.next == nil {
			key, keyPEM, err := newPrivateKey()
			if err != nil {
				return err
			}
			if err := create(filepath.Join(dir, authorityNext), keyPEM); err != nil {
				return err
			}
			a.next, r.Created = key, append(r.Created, authorityNext)
		}
		if err := a.trust(s.Cluster, a.next); err != nil {
			return err
		}
		r.Changed = append(r.Changed, authorityCert)
		return replace(filepath.Join(dir, authorityCert), a.pem)
	})
}

// takeOver lets the next authority sign, once it is trusted.
func (a *authority) takeOver(r *Report) error {
	if a.next == nil || a.of(a.next) == nil {
		return nil
	}
	a.key, a.cert, a.next = a.next, a.of(a.next), nil
	r.Changed, r.Removed = append(r.Changed, authorityKey), append(r.Removed, authorityNext)
	return os.Rename(filepath.Join(a.dir, authorityNext), filepath.Join(a.dir, authorityKey))
}

// FinishAuthority ends the trust in all authorities but the one that signs. It refuses if a server has a certificate of
// another.
func FinishAuthority(dir string) (*Report, error) {
	return withAuthority(dir, func(s *State, a *authority, r *Report) error {
		if a.next != nil {
			return errors.New("the new authority has signed nothing yet: renew the certificates of the servers, and let them load these, before the old one goes")
		}
		for _, v := range s.Servers {
			if c := s.certificate(filepath.Join(v.folder(), "cert.pem")); c == nil || c.CheckSignatureFrom(a.cert) != nil {
				return fmt.Errorf("server %s: its certificate is not of the authority that stays: renew the certificates of the servers first", v.Name)
			}
		}
		if len(a.trusted) == 1 {
			return nil
		}
		a.trusted, a.pem = a.trusted[:0], encode(a.cert)
		a.trusted = append(a.trusted, a.cert)
		r.Changed = append(r.Changed, authorityCert)
		return replace(filepath.Join(dir, authorityCert), a.pem)
	})
}

// withAuthority changes the authority of a directory, and gives servers what they trust.
func withAuthority(dir string, change func(*State, *authority, *Report) error) (*Report, error) {
	s, err := load(dir)
	if err != nil {
		return nil, err
	}
	if err := s.unchanged(); err != nil {
		return nil, err
	}
	r := newReport(dir)
	a, err := openAuthority(dir, s.Cluster, newReport(dir))
	if err != nil {
		return nil, err
	}
	if err := change(s, a, r); err != nil {
		return nil, err
	}
	return s.finish(r, a)
}

func parseCertificates(data []byte) (all []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("has no certificate in PEM")
	}
	return all, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: has no key in PEM", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}
