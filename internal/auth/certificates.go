package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// How long certificates hold. That of the authority is given to every process, so it holds long; those of servers are made
// anew by Renew.
const (
	authorityFor = 10 * 365 * 24 * time.Hour
	serverFor    = 825 * 24 * time.Hour
	// clocks may differ by so much.
	clockSkew = time.Hour
)

// certify makes the certificate of a server, by which clients and the other servers know it. All names of all servers are in
// it: a client that hears of a further server expects the name that it has reached the first one by.
func (a *authority) certify(name string, hosts []string) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newPrivateKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-clockSkew), NotAfter: time.Now().Add(serverFor),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // of routes, either side
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}

// hosts are all names of all servers, and those of the machine itself.
func (s *State) hosts() []string {
	hosts := []string{"localhost", "127.0.0.1"}
	for _, server := range s.Servers {
		hosts = append(append(hosts, server.Host), server.Names...)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// certifyServers gives certificates to servers that have none, whose certificate lacks a name, or to all.
func (s *State) certifyServers(a *authority, all bool, r *Report) error {
	for _, server := range s.Servers {
		cert, key := filepath.Join(server.folder(), "cert.pem"), filepath.Join(server.folder(), "key.pem")
		if !all && s.serves(a, cert, key) {
			r.Kept = append(r.Kept, cert, key)
			continue
		}
		certPEM, keyPEM, err := a.certify(server.Name, s.hosts())
		if err != nil {
			return fmt.Errorf("certificate of server %s: %w", server.Name, err)
		}
		if err := errors.Join(replace(filepath.Join(s.dir, key), keyPEM), replace(filepath.Join(s.dir, cert), certPEM)); err != nil {
			return err
		}
		r.Created = append(r.Created, cert, key)
	}
	return nil
}

// serves reports whether a certificate is there with its key, is of an authority that is trusted, and has all names.
func (s *State) serves(a *authority, cert, key string) bool {
	found := s.certificate(cert)
	if _, err := os.Stat(filepath.Join(s.dir, key)); err != nil || found == nil {
		return false
	}
	if !slices.ContainsFunc(a.trusted, func(c *x509.Certificate) bool { return found.CheckSignatureFrom(c) == nil }) {
		return false
	}
	return !slices.ContainsFunc(s.hosts(), func(host string) bool { return found.VerifyHostname(host) != nil })
}

// certificate reads one of a server; nil if it is not there, or none.
func (s *State) certificate(name string) *x509.Certificate {
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return nil
	}
	found, err := parseCertificates(data)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0]
}

func newPrivateKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // the machine has no randomness
	}
	return n
}
