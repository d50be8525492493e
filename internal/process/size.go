package process

import (
	"strconv"
	"strings"
)

// Size is a number of bytes, written as "64MiB", "512KiB" or "1000".
type Size int64

// units are those of Size, the largest first.
var units = [...]struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Bounds of max_value_size. What is below travels in messages anyway; what is above does not fit into a runner's memory.
const (
	minValueSize Size = 128 << 10
	maxValueSize Size = 1 << 30
)

func parseValueSize(text string) (Size, bool) {
	s, ok := ParseSize(text)
	return s, ok && s >= minValueSize && s <= maxValueSize
}

// ParseSize is the inverse of String; ok is false for what is no size, or too large for one.
func ParseSize(text string) (s Size, ok bool) {
	unit := Size(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = number, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(text, 10, 31)
	return Size(n) * unit, err == nil
}
