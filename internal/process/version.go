package process

import (
	"runtime/debug"
	"strings"
	"unicode"
)

// maxVersion bounds the name of a version: it stands in the log of every run.
const maxVersion = 128

func parseVersion(text string) (string, bool) {
	return text, len(text) <= maxVersion && strings.ToValidUTF8(text, "") == text && !strings.ContainsFunc(text, unicode.IsControl)
}

// buildVersion is the revision that the program was built from; empty if it is not known, as in tests.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+modified"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + modified
}
