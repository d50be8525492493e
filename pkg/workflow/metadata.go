package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/skein-run/skein/internal/turn"
	"github.com/skein-run/skein/pkg/protocol"
)

// Metadata describes an instance for the agent that starts it with agent.RunWorkflow, which finds it by that and is handed it
// with everything that it is told. The instance does not see it. At most protocol.MaxMetadata bytes as JSON; keys have 1 to
// protocol.MaxMetadataKey bytes.
func Metadata(metadata map[string]string) CreateOption { return metadataOption(metadata) }

type metadataOption map[string]string

func (m metadataOption) applyCreate(o *createOptions) error {
	for key, value := range m {
		if key == "" || len(key) > protocol.MaxMetadataKey || !utf8.ValidString(key) {
			return &OptionError{Option: "Metadata key", Value: fmt.Sprintf("%q", key),
				Allowed: fmt.Sprintf("1 to %d bytes of UTF-8", protocol.MaxMetadataKey)}
		}
		if !utf8.ValidString(value) {
			return &OptionError{Option: fmt.Sprintf("Metadata %q", key), Value: fmt.Sprintf("%q", value), Allowed: "UTF-8"}
		}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(raw) > protocol.MaxMetadata {
		return &OptionError{Option: "Metadata", Value: fmt.Sprintf("%d bytes long as JSON", len(raw)),
			Allowed: fmt.Sprintf("at most %d", protocol.MaxMetadata)}
	}
	o.metadata = m
	return nil
}

// track hands on what a turn that tracks its instances wants to know of them, and refuses options that do not fit.
func (o *createOptions) track(ctx context.Context) error {
	t, _ := turn.From(ctx)
	tracking, tracks := t.(turn.Tracking)
	switch {
	case !tracks && o.metadata != nil:
		return &OptionError{Option: "Metadata", Value: "given", Allowed: "with agent.RunWorkflow alone"}
	case !tracks:
		return nil
	case o.existing != protocol.ExistingFail:
		return &OptionError{Option: "OnExisting", Value: o.existing, Allowed: "with agent.RunWorkflow, Fail alone: it tracks what it starts"}
	}
	tracking.Describe(o.metadata)
	return nil
}
