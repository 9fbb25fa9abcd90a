package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

// listOptions are the flags and arguments of ls.
type listOptions struct {
	imageFlags
	patterns                  []string
	pinned, partial, untagged bool
	unusedFor                 string
	unused                    time.Duration // what unusedFor says
	sort                      string
	reverse                   bool
}

func lsCommand() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "ls [PATTERN...]",
		Short: "List the images that are stored",
		Long: `List the images that are stored, by the names under which they are: those of the first
remote without its host, others with it. A pattern is for a repository, or for repository
and tag; * is anything but a slash, and ** any number of path components.

SIZE is what is stored of an image, UNIQUE what of that no other image has: what its
removal would give back. Layers that images share are in the SIZE of each of them.`,
		Example: `  registry-module ls
  registry-module ls 'team/**' --sort unique
  registry-module ls '**:latest' --unused-for 30d -o wide
  registry-module ls --partial -o json
  registry-module ls -o have > site.have`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, patterns []string) error {
			o.patterns = patterns
			if err := o.check(); err != nil {
				return usageError{err}
			}
			return o.open(cmd, func(i openedImages) error {
				if o.output == "have" {
					return writeHaveList(cmd.Context(), cmd.OutOrStdout(), i)
				}
				err := o.list(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), i, time.Now())
				if err != nil || o.output == "json" {
					return err
				}
				return printSeedState(cmd.Context(), cmd.ErrOrStderr(), i.seeds, time.Now())
			})
		},
	}
	cmd.Flags().StringVarP(&o.config, "config", "c", "", "the configuration file of the server")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table, wide, json, or have")
	cmd.Flags().BoolVar(&o.pinned, "pinned", false, "only images that are pinned")
	cmd.Flags().BoolVar(&o.partial, "partial", false, "only images of which something is missing")
	cmd.Flags().BoolVar(&o.untagged, "untagged", false, "only images without a tag")
	cmd.Flags().StringVar(&o.unusedFor, "unused-for", "", "only images that nobody has asked for this long, for example 30d or 12h; not those of which that is unknown")
	cmd.Flags().StringVar(&o.sort, "sort", "name", "name, size or unique (largest first), used or confirmed (latest first)")
	cmd.Flags().BoolVar(&o.reverse, "reverse", false, "the other way round")
	return cmd
}

// check tells what is wrong with the command line.
func (o *listOptions) check() error {
	if !slices.Contains([]string{"table", "wide", "json", "have"}, o.output) {
		return fmt.Errorf("there is no output format %q: write table, wide, json or have", o.output)
	}
	if o.output == "have" && (len(o.patterns) > 0 || o.pinned || o.partial || o.untagged || o.unusedFor != "") {
		return errors.New("-o have is the list of all that is stored: leave patterns and other choices out")
	}
	if _, ok := orders[o.sort]; !ok {
		return fmt.Errorf("cannot sort by %q: write name, size, unique, used or confirmed", o.sort)
	}
	for _, p := range o.patterns {
		repository, tag, _ := config.CutReference(p)
		if p == "" || !doublestar.ValidatePattern(repository) || !doublestar.ValidatePattern(tag) {
			return fmt.Errorf("%q is not a pattern for names: write for example 'team/*' or 'team/**'", p)
		}
	}
	if o.unusedFor != "" {
		var err error
		if o.unused, err = parseAge(o.unusedFor); err != nil {
			return fmt.Errorf("--unused-for %w", err)
		}
	}
	return nil
}

// parseAge reads a duration such as 12h or 30d.
func parseAge(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	d, err := time.ParseDuration(text)
	if number, ok := strings.CutSuffix(text, "d"); ok {
		var days uint64
		days, err = strconv.ParseUint(number, 10, 16) // more than 100 years are never
		d = time.Duration(days) * day
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a length of time: write for example 30d or 12h", text)
	}
	return d, nil
}

// orders compare images for sorting; nil is the order in which they come. What is not
// known is at the end.
var orders = map[string]func(a, b cache.Image) int{
	"name":      nil,
	"size":      func(a, b cache.Image) int { return cmp.Compare(b.Size, a.Size) },
	"unique":    func(a, b cache.Image) int { return cmp.Compare(b.Unique, a.Unique) },
	"used":      func(a, b cache.Image) int { return b.Used.Compare(a.Used) },
	"confirmed": func(a, b cache.Image) int { return b.Confirmed.Compare(a.Confirmed) },
}

// admits tells whether an image is one of those that are wanted.
func (o *listOptions) admits(i cache.Image, now time.Time) bool {
	switch {
	case o.pinned && len(i.Pins) == 0,
		o.partial && i.Complete,
		o.untagged && i.Tag != "",
		o.unused > 0 && (i.Used.IsZero() || now.Sub(i.Used) < o.unused):
		return false
	case len(o.patterns) == 0:
		return true
	}
	return slices.ContainsFunc(o.patterns, func(p string) bool {
		repository, tag, dgst := config.CutReference(p)
		return doublestar.MatchUnvalidated(repository, i.Repository) &&
			(tag == "" || i.Tag != "" && doublestar.MatchUnvalidated(tag, i.Tag)) && strings.HasPrefix(i.Digest.String(), dgst)
	})
}

// chosen gives the images that are wanted, in the order that is wanted. Only where that
// is another one than that in which they come are they held all at once.
func (o *listOptions) chosen(ctx context.Context, i imageControl, now time.Time) iter.Seq2[cache.Image, error] {
	wanted := func(yield func(cache.Image, error) bool) {
		for image, err := range i.Images(ctx) {
			if (err != nil || o.admits(image, now)) && !yield(image, err) || err != nil {
				return
			}
		}
	}
	order := orders[o.sort]
	if order == nil && !o.reverse {
		return wanted
	}
	return func(yield func(cache.Image, error) bool) {
		var all []cache.Image
		for image, err := range wanted {
			if err != nil {
				yield(image, err)
				return
			}
			all = append(all, image)
		}
		if order != nil {
			slices.SortStableFunc(all, order)
		}
		if o.reverse {
			slices.Reverse(all)
		}
		for _, image := range all {
			if !yield(image, nil) {
				return
			}
		}
	}
}

// list prints the images that are wanted to out, and their sums to notes.
func (o *listOptions) list(ctx context.Context, out, notes io.Writer, i imageControl, now time.Time) error {
	all := o.chosen(ctx, i, now)
	if o.output == "json" {
		return writeArray(out, all)
	}
	table := newImageTable(out, o.output == "wide", now)
	for image, err := range all {
		if err == nil {
			err = table.add(image)
		}
		if err != nil {
			return errors.Join(err, table.flush())
		}
	}
	if err := table.flush(); err != nil {
		return err
	}
	text := table.sums()
	if table.lines == 0 {
		text = o.none()
	}
	_, err := fmt.Fprintln(notes, text)
	return err
}

// printSeedState says how the schedule stands by which images are fetched.
func printSeedState(ctx context.Context, notes io.Writer, s seedStates, now time.Time) error {
	state, err := s.SeedState(ctx)
	if err != nil {
		return err
	}
	if text := seedStateText(state, now); text != "" {
		_, err = fmt.Fprintln(notes, text)
	}
	return err
}

// none says that there is nothing to list.
func (o *listOptions) none() string {
	if len(o.patterns) > 0 || o.pinned || o.partial || o.untagged || o.unused > 0 {
		return "no stored image is like that; `registry-module ls` lists all"
	}
	return "nothing is stored yet: images are when they are pulled"
}

// writeArray writes a JSON array, element by element. Where there is an error, it has no
// end, so that nobody takes it for all.
func writeArray[T any](out io.Writer, all iter.Seq2[T, error]) error {
	before := "[\n  "
	for v, err := range all {
		if err != nil {
			return err
		}
		text, err := json.MarshalIndent(v, "  ", "  ")
		if err != nil {
			return err
		}
		if _, err := io.WriteString(out, before+string(text)); err != nil {
			return err
		}
		before = ",\n  "
	}
	end := "\n]\n"
	if before[0] == '[' {
		end = "[]\n"
	}
	_, err := io.WriteString(out, end)
	return err
}

// imageTable prints images as a table. Columns are aligned for so many lines at a time
// that all can be seen together, and no more are held.
type imageTable struct {
	w            *tabwriter.Writer
	wide         bool
	now          time.Time
	lines        int
	size, unique int64
}

const alignedLines = 1000

func newImageTable(out io.Writer, wide bool, now time.Time) *imageTable {
	return &imageTable{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), wide: wide, now: now}
}

func (t *imageTable) add(i cache.Image) error {
	if t.lines == 0 {
		if err := t.header(); err != nil {
			return err
		}
	}
	t.lines++
	t.size += i.Size
	t.unique += i.Unique
	var err error
	if t.wide {
		_, err = fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", listedName(i), printable(i.Digest.String()),
			platformsText(i.Platforms, len(i.Platforms)), sizeText(i.Size), sizeText(i.Unique),
			timeText(i.Used), timeText(i.Confirmed), pinsText(i.Pins), stateText(i), printable(i.Remote))
	} else {
		const enough = 3
		_, err = fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", listedName(i), shortDigest(i.Digest.String()),
			platformsText(i.Platforms, enough), sizeText(i.Size), sizeText(i.Unique),
			ago(i.Used, t.now), reasonsText(i.Pins), stateText(i))
	}
	if err == nil && t.lines%alignedLines == 0 {
		err = t.w.Flush()
	}
	return err
}

func (t *imageTable) header() error {
	header := "IMAGE\tDIGEST\tPLATFORMS\tSIZE\tUNIQUE\tLAST USED\tPINNED\tSTATE\n"
	if t.wide {
		header = "IMAGE\tDIGEST\tPLATFORMS\tSIZE\tUNIQUE\tLAST USED\tCONFIRMED\tPINNED\tSTATE\tREMOTE\n"
	}
	_, err := io.WriteString(t.w, header)
	return err
}

func (t *imageTable) flush() error {
	if t.lines == 0 {
		if err := t.header(); err != nil {
			return err
		}
	}
	return t.w.Flush()
}

func (t *imageTable) sums() string {
	return fmt.Sprintf("%s, %s, %s of that unique; what images share counts for each of them",
		quantity(t.lines, "image", "images"), sizeText(t.size), sizeText(t.unique))
}

// listedName is the name of an image that commands take.
func listedName(i cache.Image) string {
	if i.Tag == "" {
		return printable(i.Repository + "@" + shortDigest(i.Digest.String()))
	}
	return printable(imageName(i.Repository, i.Tag))
}

// platformsText are platforms, no more than enough of them.
func platformsText(platforms []string, enough int) string {
	if len(platforms) == 0 {
		return "-"
	}
	text := strings.Join(platforms[:min(len(platforms), enough)], ",")
	if more := len(platforms) - enough; more > 0 {
		text += fmt.Sprintf(",+%d", more)
	}
	return printable(text)
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.Format(time.RFC3339)
}

// reasonsText are the reasons of pins, each once.
func reasonsText(pins []cache.Pin) string {
	var reasons []string
	for _, p := range pins {
		if !slices.Contains(reasons, string(p.Reason)) {
			reasons = append(reasons, string(p.Reason))
		}
	}
	return printable(cmp.Or(strings.Join(reasons, ","), "-"))
}

// pinsText are pins with their patterns.
func pinsText(pins []cache.Pin) string {
	var texts []string
	for _, p := range pins {
		texts = append(texts, fmt.Sprintf("%s(%s)", p.Reason, p.Pattern))
	}
	return printable(cmp.Or(strings.Join(texts, ","), "-"))
}
