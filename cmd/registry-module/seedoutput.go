package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"registry-module/seed"
)

// printPlan prints what a job comes to.
func printPlan(out io.Writer, p seed.Plan) error {
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "IMAGE\tPLATFORMS\tLAYERS\tATTACHED\tSIZE\tTO FETCH\tSTATE") // a Builder takes all
	for _, i := range p.Images {
		state := "to be fetched"
		switch {
		case i.Error != "":
			state = "error: " + oneLine(i.Error)
		case i.Fetch == 0:
			state = "there"
		case i.Fetch < i.Size:
			state = "partly there"
		}
		if i.Warning != "" {
			state += "; " + oneLine(i.Warning)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", printable(i.Image), platformsText(i.Platforms, 3),
			i.Layers, i.Attached, sizeText(i.Size), sizeText(i.Fetch), printable(state))
	}
	_ = w.Flush()
	fmt.Fprintf(text, "\n%s in %s and manifests; %s are there, %s are to be fetched\n",
		sizeText(p.Size), quantity(p.Blobs, "blob", "blobs"), sizeText(p.Present), sizeText(p.Fetch))
	disk := fmt.Sprintf("%s more of the disk", sizeText(p.Disk))
	if p.Limit > 0 {
		disk += fmt.Sprintf(", and what is pinned takes %s of %s then", sizeText(p.Pinned), sizeText(p.Limit))
	}
	if p.Fits {
		fmt.Fprintln(text, disk+": it fits")
	} else {
		fmt.Fprintln(text, disk+": it does not fit; "+printable(oneLine(p.Why)))
	}
	for _, pattern := range p.Prune {
		fmt.Fprintf(text, "unpinned would be %s\n", printable(pattern))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// planError is the error of a command that has shown p.
func planError(p seed.Plan) error {
	var errs []error
	for _, i := range p.Images {
		if i.Error != "" {
			errs = append(errs, imageError(i.Image, i.From, i.Error))
		}
	}
	if !p.Fits {
		return errors.Join(append(errs, fmt.Errorf("%w: %s", seed.ErrNoRoom, p.Why))...)
	}
	return failures(errs, len(p.Images), 0, "would fail")
}

// imageError is why an image fails.
func imageError(image, from, reason string) error {
	if from != "" {
		from = " (" + printable(from) + ")"
	}
	return fmt.Errorf("%s%s: %s", printable(image), from, printable(oneLine(cmp.Or(reason, "the reason is not known: see the log of the server"))))
}

// failures is the error where some of all images have failed with errs, and others are
// unsure.
func failures(errs []error, all, unsure int, what string) error {
	if len(errs) == 0 && unsure == 0 {
		return nil
	}
	var texts []string
	if len(errs) > 0 {
		texts = append(texts, fmt.Sprintf("%d of %d images %s:", len(errs), all, what))
	}
	for _, err := range errs {
		texts = append(texts, "  "+err.Error())
	}
	if unsure > 0 {
		texts = append(texts, fmt.Sprintf("%s could not be confirmed, since remotes cannot be asked: what is stored is served", quantity(unsure, "image", "images")))
	}
	if what == "have failed" || unsure > 0 {
		texts = append(texts, "run this again to go on with what is missing; `registry-module doctor` finds out why a remote does not answer")
	}
	err := errors.New(strings.Join(texts, "\n"))
	if len(errs) < all {
		return partlyError{err}
	}
	return err
}

// printSeeded prints what has come of a job.
func printSeeded(out io.Writer, r seed.Report) error {
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "IMAGE\tDIGEST\tPLATFORMS\tATTACHED\tSIZE\tFETCHED\tPINNED\tSTATE") // a Builder takes all
	count := make(map[seed.State]int)
	for _, i := range r.Images {
		count[i.State]++
		pinned, dgst := "no", "-"
		if i.Pinned {
			pinned = "yes"
		}
		if i.Digest != "" {
			dgst = shortDigest(i.Digest.String())
		}
		state := string(i.State)
		if i.Warning != "" {
			state += "; " + oneLine(i.Warning)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", printable(i.Image), dgst, platformsText(i.Platforms, 3),
			i.Attached, sizeText(i.Size), sizeText(i.Fetched), pinned, printable(state))
	}
	_ = w.Flush()
	fmt.Fprintf(text, "\n%s: %d seeded, %d present", quantity(len(r.Images), "image", "images"), count[seed.Seeded], count[seed.Present])
	for _, s := range []seed.State{seed.Unconfirmed, seed.Failed} {
		if n := count[s]; n > 0 {
			fmt.Fprintf(text, ", %d %s", n, s)
		}
	}
	fmt.Fprintf(text, "; %s fetched of %s, in %v\n", sizeText(r.Fetched), sizeText(r.Size), r.Took.Round(100*time.Millisecond))
	for _, pattern := range r.Pruned {
		fmt.Fprintf(text, "unpinned %s\n", printable(pattern))
	}
	if r.Warning != "" {
		fmt.Fprintf(text, "warning: %s\n", printable(oneLine(r.Warning)))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// reportError is the error of a command that has printed r, and whose job has ended with
// err.
func reportError(r seed.Report, err error) error {
	var errs []error
	done, unsure := 0, 0
	for _, i := range r.Images {
		switch i.State {
		case seed.Failed:
			errs = append(errs, imageError(i.Image, i.From, i.Error))
		case seed.Unconfirmed:
			unsure++
		default:
			done++
		}
	}
	switch {
	case err == nil:
		return failures(errs, len(r.Images), unsure, "have failed")
	case done > 0:
		return partlyError{fmt.Errorf("%w; %d of %d images are there: run this again to go on", err, done, len(r.Images))}
	}
	return err
}
