package process

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/skein-run/skein/internal/natstest"
)

// secured is a server with TLS that knows one user, and the files that a client needs.
type secured struct{ url, nkey, ca string }

func startSecured(t *testing.T) secured {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: natstest.FreePort(t), NoSigs: true, NoLog: true,
		Nkeys: []*server.NkeyUser{{Nkey: public, Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_me.>"}}}}},
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, TLSTimeout: 60,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(natstest.Patience) {
		t.Fatal("the server takes no connections")
	}
	return secured{
		url:  s.ClientURL(),
		nkey: write("me.nk", []byte("# of a test\n# inbox-prefix: _INBOX_me\n"+string(seed)+"\n")),
		ca:   write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	}
}

func TestConnectsWithNKeyAndAuthority(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	settings := Settings{NATSURL: s.url, NATSNKey: s.nkey, NATSCA: s.ca}.WithDefaults()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	nc, err := Connect(ctx, "test", settings, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if inbox := nc.NewInbox(); !strings.HasPrefix(inbox, "_INBOX_me.") {
		t.Errorf("inbox is %s", inbox)
	}
	// Another inbox would be refused, and no answer come.
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.RequestWithContext(ctx, "nobody", nil); err == nil || !strings.Contains(err.Error(), "no responders") {
		t.Errorf("error is %v", err)
	}
}

func TestServersThatRefuseForGoodAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	plain := natstest.Start(t)
	badPrefix := filepath.Join(t.TempDir(), "bad.nk")
	if err := os.WriteFile(badPrefix, []byte("# inbox-prefix: answers\nSUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name       string
		settings   Settings
		want, hint string
	}{
		{"no user", Settings{NATSURL: s.url, NATSCA: s.ca}, "Authorization Violation", "check nats_url and nats_creds or nats_nkey"},
		{"unknown authority", Settings{NATSURL: s.url, NATSNKey: s.nkey}, "x509: ", "check that nats_ca"},
		{"no TLS", Settings{NATSURL: plain.URL(), NATSCA: s.ca}, "secure connection not available", "leave nats_ca out"},
		{"inboxes that nobody answers to", Settings{NATSURL: s.url, NATSNKey: badPrefix}, `inbox-prefix: "answers": allowed is what begins with _INBOX`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
			defer cancel()
			_, err := Connect(ctx, "test", row.settings.WithDefaults(), slog.New(slog.DiscardHandler))
			if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("error is %v, want one with %q", err, row.want)
			}
			var told strings.Builder
			if Report(&told, err); !strings.Contains(told.String(), row.hint) {
				t.Errorf("%q is missing in %s", row.hint, told.String())
			}
		})
	}
}
