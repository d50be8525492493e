package emailworkflows

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/skein-run/skein/pkg/workflow"
)

// Variables of the environment that FromEnv reads.
const (
	// EnvSMTPAddr is the address of an SMTP server as host:port. Without it, mails are printed.
	EnvSMTPAddr = "SMTP_ADDR"
	// EnvLookAround changes Onboarding.LookAround, as in "10s".
	EnvLookAround = "LOOK_AROUND"
)

// FromEnv is New with what the environment says.
func FromEnv() (*Onboarding, error) {
	o := New(Print{os.Stdout})
	if addr := os.Getenv(EnvSMTPAddr); addr != "" {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("%s: %q: allowed is host:port", EnvSMTPAddr, addr)
		}
		o.Mail = SMTP(addr)
	}
	if text := os.Getenv(EnvLookAround); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 || d > workflow.MaxWait {
			return nil, fmt.Errorf("%s: %q: allowed is 0s to 8760h", EnvLookAround, text)
		}
		o.LookAround = d
	}
	return o, nil
}
