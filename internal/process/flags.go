package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

func flagName(setting string) string { return strings.ReplaceAll(setting, "_", "-") }

// EnvName is the environment variable of a setting.
func EnvName(setting string) string { return "SKEIN_" + strings.ToUpper(setting) }

// flagText is a flag that is judged with the other sources of its setting, not while flags are parsed.
type flagText struct {
	text string
	kind Kind
}

func (f *flagText) String() string        { return f.text }
func (f *flagText) Set(text string) error { f.text = text; return nil }
func (f *flagText) Type() string {
	switch f.kind {
	case KindNumber:
		return "int"
	case KindBoolean:
		return "bool"
	}
	return "string"
}

// defineFlags makes one flag per common setting and per extra one that is listed.
func defineFlags(set *pflag.FlagSet, extra []string) *pflag.FlagSet {
	defaults := Defaults()
	for _, f := range fields() {
		if f.extra && !slices.Contains(extra, f.name) {
			continue
		}
		usage := fmt.Sprintf("%s (%s, env %s)", f.usage, f.allowed, EnvName(f.name))
		flag := set.VarPF(&flagText{text: f.get(&defaults), kind: f.kind}, flagName(f.name), "", usage)
		if f.kind == KindBoolean {
			flag.NoOptDefVal = "true"
		}
	}
	return set
}

// resolve joins all sources. Every wrong value is named, not only the first.
func resolve(file func() (Settings, error), flags *pflag.FlagSet) (Settings, error) {
	s := Defaults()
	if file != nil {
		fromFile, err := file()
		if err != nil {
			return s, err
		}
		s = s.Overlay(fromFile)
	}
	var errs []error
	for _, f := range fields() {
		flag := flags.Lookup(flagName(f.name))
		if flag == nil {
			continue // not a setting of this server
		}
		value, source := os.Getenv(EnvName(f.name)), EnvName(f.name)
		if flag.Changed {
			value, source = flag.Value.String(), "--"+flag.Name
		}
		if value == "" && !flag.Changed {
			continue
		}
		err := f.set(&s, value)
		if wrong, ok := errors.AsType[*SettingError](err); ok {
			wrong.Source = source
		}
		errs = append(errs, err)
	}
	return s, errors.Join(errs...)
}
