package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"registry-module/cache"
	"registry-module/config"
)

func verifyCommand() *cobra.Command {
	var flags imageFlags
	var rate string
	var o cache.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read all that is stored, and find what is damaged",
		Long: `Read all that is stored, compare it with its digests, and look for what is missing or
does not belong there. Images are served meanwhile. With --repair, what is damaged is
taken away, and fetched again where its remote can be asked; without a running server
there is nobody to ask, and it is fetched at its next pull.

It exits with 0 where all is right or has been repaired, and 3 where something remains.`,
		Example: `  registry-module verify
  registry-module verify --repair --rate 20MiB/s
  registry-module verify -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := flags.isJSON()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("rate") {
				if o.Rate, err = config.ParseBandwidth(rate); err != nil {
					return usageError{fmt.Errorf("--rate %q %w", rate, err)}
				}
			}
			return flags.open(cmd, func(i openedImages) error {
				return verify(cmd, i, o, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "take away what is damaged, and fetch it again")
	cmd.Flags().StringVar(&rate, "rate", "", "how much to read in a second at most, for example 20MiB/s; no limit where it is left out")
	flags.add(cmd, "text")
	return cmd
}

func verify(cmd *cobra.Command, i openedImages, o cache.VerifyOptions, asJSON bool) error {
	notes := cmd.ErrOrStderr()
	display := newVerifyDisplay(notes, time.Now)
	if !asJSON {
		if i.direct && o.Repair {
			_, _ = fmt.Fprintln(notes, "no server runs, so that no remote can be asked: what is damaged is taken away, and fetched again at its next pull")
		}
		o.Progress = display.show
	}
	report, err := i.Verify(cmd.Context(), o)
	display.close()
	if err != nil {
		return err
	}
	if asJSON {
		report.Problems = append([]cache.Problem{}, report.Problems...)
		err = writeIndented(cmd.OutOrStdout(), report)
	} else {
		err = printVerified(cmd.OutOrStdout(), report, o.Repair)
	}
	if err != nil {
		return err
	}
	return remaining(report)
}

// remaining is the error for problems that are not repaired.
func remaining(r cache.VerifyReport) error {
	n := 0
	for _, p := range r.Problems {
		if !p.Repaired {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return partlyError{fmt.Errorf("%s", quantity(n, "problem remains", "problems remain"))}
}

// repairCommand is told once, and not for each problem.
const repairCommand = "registry-module verify --repair"

// printVerified prints what was found and what became of it.
func printVerified(out io.Writer, r cache.VerifyReport, repair bool) error {
	var b strings.Builder
	unrepaired, mendable := 0, false
	for _, p := range r.Problems {
		state := "damaged   "
		if p.Repaired {
			state = "repaired  "
		} else {
			unrepaired++
		}
		subject := printable(p.Digest.String())
		if p.Image != "" {
			subject = strings.TrimSpace(subject + "  of " + printable(p.Image))
		}
		if subject != "" {
			subject += ": "
		}
		b.WriteString(state + subject + printable(p.What) + "\n")
		if byRepair := !repair && strings.Contains(p.Hint, repairCommand); byRepair {
			mendable = true
		} else if p.Hint != "" && !p.Repaired {
			b.WriteString("          " + printable(p.Hint) + "\n")
		}
	}
	fmt.Fprintf(&b, "%s read, %s, in %v", quantity(r.Blobs, "blob", "blobs"), sizeText(r.Bytes), r.Took.Round(time.Millisecond))
	switch {
	case len(r.Problems) == 0:
		b.WriteString(": all is right\n")
	case unrepaired == 0:
		fmt.Fprintf(&b, ": %s repaired\n", quantity(len(r.Problems), "problem is", "problems are"))
	default:
		fmt.Fprintf(&b, ": %s, %d repaired\n", quantity(len(r.Problems), "problem", "problems"), len(r.Problems)-unrepaired)
	}
	if mendable {
		b.WriteString("`" + repairCommand + "` takes away what is damaged, and fetches it again\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// verifyDisplay shows how far a verification is.
type verifyDisplay struct{ *byteBar }

func newVerifyDisplay(out io.Writer, now func() time.Time) *verifyDisplay {
	return &verifyDisplay{newByteBar(out, now)}
}

func (d *verifyDisplay) show(p cache.VerifyProgress) {
	d.set(p.Bytes, p.TotalBytes, fmt.Sprintf("%d/%d blobs, %d damaged", p.Blobs, p.TotalBlobs, p.Damaged),
		func() string { return progressText(p) })
}

// progressText is a line about how far it is.
func progressText(p cache.VerifyProgress) string {
	return fmt.Sprintf("read %d of %s, %s of %s, %d damaged",
		p.Blobs, quantity(p.TotalBlobs, "blob", "blobs"), sizeText(p.Bytes), sizeText(p.TotalBytes), p.Damaged)
}
