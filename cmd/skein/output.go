package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// agentFlags say of which agents something is listed.
type agentFlags struct{ class, agent string }

func (f *agentFlags) define(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.class, "class", "", "only those of agents of this class")
	cmd.Flags().StringVar(&f.agent, "agent", "", "only those of the agent of this name")
}

func (f *agentFlags) check() error {
	if f.agent != "" && f.class == "" {
		return fmt.Errorf("--agent: %q: needs --class, too", f.agent)
	}
	return nil
}

// writeLines writes one JSON object per line, so that a long list needs no memory here or there.
func writeLines[T any](out io.Writer, all iter.Seq2[T, error]) error {
	encoder := json.NewEncoder(out)
	for one, err := range all {
		if err != nil {
			return err
		}
		if err := encoder.Encode(one); err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes a table of what line has of each, or says that there is none.
func writeTable[T any](out io.Writer, all iter.Seq2[T, error], header, none string, line func(T) []any) error {
	table := newTable(out)
	count := 0
	for one, err := range all {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if count == 0 {
			fmt.Fprintln(table, header)
		}
		count++
		writeRow(table, line(one)...)
	}
	if count == 0 {
		fmt.Fprintln(table, none)
	}
	return table.Flush()
}

func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

// writeRow writes the cells of a row, so that none of them breaks the table or steers the terminal.
func writeRow(table io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = printable(fmt.Sprint(cell))
	}
	fmt.Fprintln(table, strings.Join(texts, "\t"))
}

// printable writes what is not printed as it is written in Go: users have made the text, and others read it in a terminal.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// plainWord is what no shell reads as anything but itself.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellWord quotes text for a shell, if it has to be.
func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func orNever(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

const lineLength = 80

// oneLine is the beginning of a text, without what would end the line or steer the terminal.
func oneLine(text string) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > lineLength {
		runes = append(runes[:lineLength-1], '…')
	}
	return printable(string(runes))
}
