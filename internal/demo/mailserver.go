package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/mail"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Mail is a message that the demo's mail server took.
type Mail struct {
	At        time.Time `json:"at"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Subject   string    `json:"subject"`
	MessageID string    `json:"message_id"`
	// Repeats is set if an earlier mail has the same Message-ID.
	Repeats bool `json:"repeats,omitempty"`
}

// mailServer is an SMTP server that keeps what it gets. It takes the first mail, but holds its answer back until
// letGo: whoever dies meanwhile does not know that it was taken.
type mailServer struct {
	addr    string
	server  *smtp.Server
	serving sync.WaitGroup
	held    chan struct{} // closed when the first mail is held
	release chan struct{}
	letGo   func()

	mu    sync.Mutex // guards mails
	mails []Mail
}

func startMailServer() (*mailServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the mail server: %w", err)
	}
	m := &mailServer{addr: listener.Addr().String(), held: make(chan struct{}), release: make(chan struct{})}
	m.letGo = sync.OnceFunc(func() { close(m.release) })
	m.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return mailSession{m}, nil }))
	m.server.Domain = "localhost"
	m.server.ErrorLog = log.New(io.Discard, "", 0) // that a killed client is gone is no news
	m.serving.Go(func() { _ = m.server.Serve(listener) })
	return m, nil
}

func (m *mailServer) stop(ctx context.Context) error {
	m.letGo()
	err := m.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = m.server.Close()
	}
	m.serving.Wait()
	return err
}

// all returns what was taken so far, in order.
func (m *mailServer) all() []Mail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mails)
}

// keep stores a mail and reports whether it is the first.
func (m *mailServer) keep(one Mail) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one.Repeats = slices.ContainsFunc(m.mails, func(other Mail) bool { return other.MessageID == one.MessageID })
	m.mails = append(m.mails, one)
	return len(m.mails) == 1
}

// mailSession is one connection.
type mailSession struct{ m *mailServer }

func (mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (mailSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (mailSession) Reset()                               {}
func (mailSession) Logout() error                        { return nil }

// Data takes a message. When it returns, the client gets its answer.
func (s mailSession) Data(r io.Reader) error {
	message, err := mail.ReadMessage(r)
	if err != nil {
		return &smtp.SMTPError{Code: 554, Message: "no RFC 5322 message: " + err.Error()}
	}
	if _, err := io.Copy(io.Discard, message.Body); err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		return &smtp.SMTPError{Code: 554, Message: "subject: " + err.Error()}
	}
	first := s.m.keep(Mail{
		At: time.Now(), From: message.Header.Get("From"), To: message.Header.Get("To"), Subject: subject,
		MessageID: message.Header.Get("Message-ID"),
	})
	if first {
		close(s.m.held)
		<-s.m.release
	}
	return nil
}
