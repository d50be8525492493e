package process

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/skein-run/skein/pkg/protocol"
)

// credentialOptions say who connects and which servers are trusted. What cannot be read is found here, not by the
// connection later: it would try for ever.
func credentialOptions(s Settings) ([]nats.Option, error) {
	if s.NATSCreds != "" && s.NATSNKey != "" {
		return nil, fmt.Errorf("nats_nkey %q: allowed is one of nats_creds and nats_nkey, and nats_creds is %q", s.NATSNKey, s.NATSCreds)
	}
	var opts []nats.Option
	if s.NATSCreds != "" {
		if _, err := os.Stat(s.NATSCreds); err != nil {
			return nil, fmt.Errorf("nats_creds %q: %w", s.NATSCreds, err)
		}
		opts = append(opts, nats.UserCredentials(s.NATSCreds))
	}
	if s.NATSNKey != "" {
		user, err := nkeyOptions(s.NATSNKey)
		if err != nil {
			return nil, fmt.Errorf("nats_nkey %q: %w", s.NATSNKey, err)
		}
		opts = append(opts, user...)
	}
	trust, err := tlsOptions(s)
	return append(opts, trust...), err
}

// inboxLine begins the line of a file with a seed that names the inboxes of its user. To others it is a comment.
const inboxLine = "# inbox-prefix:"

// nkeyOptions reads a file with the seed of a user. It is read once: a file that is exchanged is another user, which a
// running process does not become.
func nkeyOptions(path string) ([]nats.Option, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return nil, err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, err
	}
	opts := []nats.Option{nats.Nkey(public, pair.Sign)}
	for line := range bytes.Lines(data) {
		prefix, ok := strings.CutPrefix(string(bytes.TrimSpace(line)), inboxLine)
		if !ok {
			continue
		}
		prefix = strings.TrimSpace(prefix)
		if !strings.HasPrefix(prefix, protocol.InboxPrefix) { // nobody would answer
			return nil, fmt.Errorf("%s %q: allowed is what begins with %s", inboxLine[2:], prefix, protocol.InboxPrefix)
		}
		opts = append(opts, nats.CustomInboxPrefix(prefix))
	}
	return opts, nil
}

// tlsOptions say whom the connection trusts, and by what certificate it is known itself. The files are read again
// whenever the connection is made anew.
func tlsOptions(s Settings) ([]nats.Option, error) {
	if (s.NATSCert == "") != (s.NATSKey == "") {
		return nil, fmt.Errorf("nats_cert %q and nats_key %q: allowed is both or none", s.NATSCert, s.NATSKey)
	}
	var opts []nats.Option
	if s.NATSCA != "" {
		pem, err := os.ReadFile(s.NATSCA)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			err = errors.New("has no certificate in PEM")
		}
		if err != nil {
			return nil, fmt.Errorf("nats_ca %q: %w", s.NATSCA, err)
		}
		opts = append(opts, nats.RootCAs(s.NATSCA))
	}
	if s.NATSCert != "" {
		if _, err := tls.LoadX509KeyPair(s.NATSCert, s.NATSKey); err != nil {
			return nil, fmt.Errorf("nats_cert %q with nats_key %q: %w", s.NATSCert, s.NATSKey, err)
		}
		opts = append(opts, nats.ClientCert(s.NATSCert, s.NATSKey))
	}
	return opts, nil
}

// refused reports whether a server will not have this connection, or the connection not this server, however often it is
// tried.
func refused(err error) (hint string, ok bool) {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return "check nats_url and nats_creds or nats_nkey against the server's users", true
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "the server has no TLS: check nats_url, or leave nats_ca out", true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "check that nats_ca is the authority of the server's certificate, and that nats_url has a name that stands in it", true
	}
	return "", false
}
