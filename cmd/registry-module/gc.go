package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

func gcCommand() *cobra.Command {
	var flags imageFlags
	var free string
	var o cache.CollectOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what is worth least, or show what that would be",
		Long: `Remove what has expired (REGISTRY_PROXY_TTL), what no image uses, and what is over the
limits (REGISTRY_CACHE_MAXSIZE, REGISTRY_CACHE_MINFREE). The server does so by itself; with
--free, more room is made now, whatever the limits are. Nothing that is pinned, or part of
a running pull, is removed.

With --dry-run nothing is removed, and what would be is shown.

It exits with 0 where as much is free as was wanted, 1 where nothing could be freed, and 3
where it is less.`,
		Example: `  registry-module gc --dry-run
  registry-module gc --free 2GiB
  registry-module gc --dry-run --free 2GiB -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("free") {
				if o.Free, err = config.ParseSize(free); err == nil && o.Free == 0 {
					err = fmt.Errorf("is nothing: write for example 2GiB")
				}
				if err != nil {
					return usageError{fmt.Errorf("--free %q %w", free, err)}
				}
			}
			return flags.open(cmd, func(i openedImages) error {
				c, err := i.Collect(cmd.Context(), o)
				if err != nil {
					return err
				}
				if asJSON {
					c.Victims = append([]cache.Victim{}, c.Victims...)
					err = writeIndented(cmd.OutOrStdout(), c)
				} else {
					err = printCollection(cmd.OutOrStdout(), c, o, time.Now())
				}
				if err != nil {
					return err
				}
				return tooLittle(c, o)
			})
		},
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only show what would be removed")
	cmd.Flags().StringVar(&free, "free", "", "how much to make free at least, for example 2GiB")
	flags.add(cmd, "a table")
	return cmd
}

// tooLittle is the error for a collection that was to free more than it has.
func tooLittle(c cache.Collection, o cache.CollectOptions) error {
	planned := int64(0)
	for _, v := range c.Victims {
		planned += v.Bytes
	}
	var err error
	switch {
	case o.DryRun:
		return nil
	case c.Freed < planned:
		err = fmt.Errorf("only %s of %s could be freed: see why in the log of the server, or that the data directory can be written to", sizeText(c.Freed), sizeText(planned))
	case c.Freed < o.Free:
		err = fmt.Errorf("%s could not be freed, only %s", sizeText(o.Free), sizeText(c.Freed))
	default:
		return nil
	}
	if c.Freed > 0 {
		return partlyError{err}
	}
	return err
}

// printCollection prints what was removed, or would be.
func printCollection(out io.Writer, c cache.Collection, o cache.CollectOptions, now time.Time) error {
	if len(c.Victims) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		_, err := io.WriteString(w, "IMAGE\tWHY\tBLOBS\tFREES\tLAST USED\n")
		for n, v := range c.Victims {
			if err == nil {
				_, err = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", victimName(v), printable(v.Why), v.Blobs, sizeText(v.Bytes), ago(v.Used, now))
			}
			if err == nil && (n+1)%alignedLines == 0 {
				err = w.Flush()
			}
		}
		if err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, collectionText(c, o))
	return err
}

// victimName is what is removed: images by their names, and what has none by its digest.
func victimName(v cache.Victim) string {
	const enough = 3
	names := v.Images[:min(len(v.Images), enough)]
	text := cmp.Or(strings.Join(names, ","), shortDigest(v.Digest.String()))
	if more := len(v.Images) - enough; more > 0 {
		text += fmt.Sprintf(",+%d", more)
	}
	return printable(text)
}

// collectionText says what it comes to.
func collectionText(c cache.Collection, o cache.CollectOptions) string {
	var b strings.Builder
	switch {
	case len(c.Victims) == 0:
		b.WriteString("nothing to remove")
	case o.DryRun:
		fmt.Fprintf(&b, "%s would be freed", sizeText(c.Freed))
	default:
		fmt.Fprintf(&b, "%s freed", sizeText(c.Freed))
	}
	fmt.Fprintf(&b, "; %s used", sizeText(c.Used))
	if len(c.Victims) > 0 && o.DryRun {
		b.WriteString(" then")
	}
	if c.Limit > 0 {
		fmt.Fprintf(&b, " of the limit of %s", sizeText(c.Limit))
	} else {
		b.WriteString(", without a limit")
	}
	fmt.Fprintf(&b, "; %s pinned, %s of running pulls\n", sizeText(c.Kept), sizeText(c.Busy))
	if c.Freed < o.Free && (o.DryRun || len(c.Victims) == 0) {
		fmt.Fprintf(&b, "%s cannot be freed: the rest is pinned, of running pulls or unfinished downloads, or the index; "+
			"`registry-module pin --list` shows what is pinned\n", sizeText(o.Free))
	}
	return b.String()
}
