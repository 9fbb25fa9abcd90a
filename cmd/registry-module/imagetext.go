package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

// printable is text for terminals. Names of images come from outside: what would move
// the cursor, change colors or turn the direction is shown in quotes, escaped.
func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// sizeText is a number of bytes for people.
func sizeText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// ago is a time for people, as seen now; unknown where it is zero.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return humanize.RelTime(t, now, "ago", "from now")
}

// shortDigest is so much of a digest that it can be told from others, and that commands
// take it.
func shortDigest(dgst string) string {
	const enough = 12
	algorithm, hex, ok := strings.Cut(dgst, ":")
	if !ok || len(hex) <= enough {
		return printable(dgst)
	}
	return printable(algorithm + ":" + hex[:enough])
}

// quantity is a number of things.
func quantity(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(int64(n)) + " " + several
}

// writeIndented writes v as JSON for people who look at it, too.
func writeIndented(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// stateText says whether all of an image is stored.
func stateText(i cache.Image) string {
	switch {
	case i.Complete:
		return "complete"
	case i.Missing > 0:
		return fmt.Sprintf("partial: %d missing", i.Missing)
	}
	return "partial"
}

// policyPlace is where pins of the configuration are set.
const policyPlace = "cache.pins, REGISTRY_CACHE_PINS"

// imageFlags are those that all commands about images have.
type imageFlags struct {
	config, output string
}

func (f *imageFlags) add(cmd *cobra.Command, otherwise string) {
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "the configuration file of the server")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "json, or "+otherwise+" where it is left out")
}

// isJSON checks the output format, and tells whether it is JSON.
func (f *imageFlags) isJSON() (bool, error) {
	if f.output != "" && f.output != "json" {
		return false, usageError{fmt.Errorf("there is no output format %q: write json, or leave it out for text", f.output)}
	}
	return f.output == "json", nil
}

// open loads the configuration, and does something with the images.
func (f *imageFlags) open(cmd *cobra.Command, do func(openedImages) error) error {
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	return withImages(cmd.Context(), cfg, do)
}

// asUsage makes an error that is about what was written on the command line one of
// usage.
func asUsage(err error) error {
	if errors.Is(err, errBadPattern) {
		return usageError{err}
	}
	return err
}
