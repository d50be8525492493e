package process

import (
	"io"
	"log/slog"
)

// NewLogger makes the logger of a process as its settings want it.
func NewLogger(w io.Writer, s Settings) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, &SettingError{Setting: "log_level", Value: s.LogLevel, Allowed: "debug, info, warn or error"}
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}
