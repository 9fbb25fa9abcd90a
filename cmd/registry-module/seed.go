package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"registry-module/config"
	"registry-module/internal/durable"
	"registry-module/seed"
	"registry-module/seed/source"
)

// wantFlags say which images are wanted, for commands that take them from anywhere.
type wantFlags struct {
	files       []string
	platforms   []string
	noReferrers bool
}

func (f *wantFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "a list of images, deployment manifest of IoT Edge, compose file, Kubernetes manifests, or seed file; - is standard input; may be repeated")
	cmd.Flags().StringSliceVar(&f.platforms, "platform", nil, "only these platforms of images that have several, for example linux/arm64,linux/arm/v7")
	cmd.Flags().BoolVar(&f.noReferrers, "no-referrers", false, "leave out what is attached to images: signatures, SBOMs, attestations")
}

// read returns what the arguments and files want, and whether a seed file among them says
// that the rest is to be unpinned.
func (f *wantFlags) read(stdin io.Reader, warn io.Writer, images []string) (wants []seed.Want, prune bool, err error) {
	for _, image := range images {
		wants = append(wants, seed.Want{Image: image})
	}
	var wrong []error
	if n := len(f.files) - len(slices.DeleteFunc(slices.Clone(f.files), func(name string) bool { return name == standard })); n > 1 {
		wrong = append(wrong, errors.New("standard input (-f -) can be read once only"))
	}
	for _, name := range f.files {
		doc, err := readSource(stdin, name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		for _, w := range doc.Warnings {
			_, _ = fmt.Fprintln(warn, printable("warning: "+w)) // nobody may be reading
		}
		wants = append(wants, doc.Wants...)
		prune = prune || doc.Prune != nil && *doc.Prune
	}
	for i := range wants {
		if len(wants[i].Platforms) == 0 {
			wants[i].Platforms = f.platforms
		}
		wants[i].Bare = wants[i].Bare || f.noReferrers
	}
	wrong = append(wrong, seed.Job{Wants: wants}.Validate())
	return wants, prune, errors.Join(wrong...)
}

// readSource reads one file.
func readSource(stdin io.Reader, name string) (source.Document, error) {
	o := source.Options{
		Lookup:        os.LookupEnv,
		CheckTags:     func(t seed.Tags) error { return t.Validate() },
		CheckSchedule: func(expression string) error { return seed.CheckSchedule([]string{expression}) },
	}
	if name == standard {
		return source.Read("standard input", stdin, o)
	}
	f, _, err := durable.Open(durable.OS{}, name, 0)
	if err != nil {
		return source.Document{}, fmt.Errorf("-f %s: %w", name, withoutPath(err))
	}
	defer func() { _ = f.Close() }() // it was only read
	return source.Read(name, f, o)
}

// seedFlags are the flags of seed.
type seedFlags struct {
	imageFlags
	wantFlags
	noPin, prune, dryRun bool
	to, tokenFile        string
}

func seedCommand() *cobra.Command {
	var f seedFlags
	cmd := &cobra.Command{
		Use:   "seed [IMAGE...] [-f FILE]...",
		Short: "Fetch images before somebody asks for them, and keep them",
		Long: `Fetch images, with their signatures, SBOMs and attestations, and pin them, so that they
are there when the link is not. Images come from the command line, and from files: lists
with an image in each line, deployment manifests of IoT Edge, compose files, Kubernetes
manifests and what helm template prints, and seed files, which have patterns for tags.
${VARIABLES} in them are those of the environment.

The server that runs on the data directory does the work, with its limits and remotes.
Where none runs, this command fills the directory itself, and then asks registries, too,
that are not configured. With --to it is a server somewhere else.

What is there is not fetched again, and what was interrupted goes on where it was. A tag
stands for the new image when all of that is there. Nothing is fetched where what is
pinned would not fit.

It exits with 0 where all images are there, 1 where none is, and 3 where some are.`,
		Example: `  registry-module seed mcr.microsoft.com/azureiotedge-agent:1.5 docker.io/library/alpine
  registry-module seed -f deployment.json --platform linux/arm64 --dry-run
  helm template chart | registry-module seed -f -
  registry-module seed -f site.yml --prune
  registry-module seed -f site.yml --to https://gateway:5001 --token-file token`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, images []string) error { return f.run(cmd, images) },
	}
	f.wantFlags.add(cmd)
	cmd.Flags().BoolVar(&f.noPin, "no-pin", false, "do not pin the images: they are removed like others to make room")
	cmd.Flags().BoolVar(&f.prune, "prune", false, "unpin what was seeded before and is not named any more")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only tell what it comes to, and whether it fits")
	cmd.Flags().StringVar(&f.to, "to", "", "the admin address of the server to seed, for example http://gateway:5001")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "the file with the token for --to")
	f.imageFlags.add(cmd, "text")
	return cmd
}

func (f *seedFlags) run(cmd *cobra.Command, images []string) error {
	asJSON, err := f.isJSON()
	if err != nil {
		return err
	}
	if len(images)+len(f.files) == 0 {
		return usageError{errors.New("name images, or files with images (-f)")}
	}
	if f.tokenFile != "" && f.to == "" {
		return usageError{errors.New("--token-file is for --to")}
	}
	wants, prune, err := f.read(cmd.InOrStdin(), cmd.ErrOrStderr(), images)
	if err != nil {
		return usageError{err}
	}
	job := seed.Job{Wants: wants, Prune: f.prune || prune}
	for i := range job.Wants {
		job.Wants[i].Loose = job.Wants[i].Loose || f.noPin
	}
	if len(job.Wants) == 0 && !job.Prune {
		return usageError{errors.New("there are no images in what is named")}
	}
	do := func(s seeding) error {
		if f.dryRun {
			return planJob(cmd, s, job, asJSON)
		}
		return doJob(cmd, s, job, asJSON)
	}
	if f.to != "" {
		c, err := newSeedClient(f.to, f.tokenFile)
		if err != nil {
			return err
		}
		return asUsage(do(c))
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	cfg, done, err := dataDirFor(cfg, f.dryRun)
	if err != nil {
		return err
	}
	err = withSeeding(cmd.Context(), cfg, job.Wants, func(i openedImages) error { return do(i.seeding) })
	return errors.Join(asUsage(err), done())
}

// planJob tells what a job comes to.
func planJob(cmd *cobra.Command, s seeding, job seed.Job, asJSON bool) error {
	plan, err := s.Plan(cmd.Context(), job)
	if err != nil {
		return err
	}
	plan.Images = append([]seed.PlannedImage{}, plan.Images...)
	if asJSON {
		err = writeIndented(cmd.OutOrStdout(), plan)
	} else {
		err = printPlan(cmd.OutOrStdout(), plan)
	}
	if err != nil {
		return err
	}
	failed := 0
	for _, i := range plan.Images {
		if i.Error != "" {
			failed++
		}
	}
	if !plan.Fits {
		return fmt.Errorf("it does not fit: %s", plan.Why)
	}
	return someFailed(failed, len(plan.Images), "cannot be had")
}

// someFailed is the error of a command that has not done all images.
func someFailed(failed, of int, what string) error {
	switch {
	case failed == 0:
		return nil
	case failed == of:
		return fmt.Errorf("%s %s", quantity(failed, "image", "images"), what)
	}
	return partlyError{fmt.Errorf("%d of %s %s", failed, quantity(of, "image", "images"), what)}
}

// doJob does a job, and shows how far it is.
func doJob(cmd *cobra.Command, s seeding, job seed.Job, asJSON bool) error {
	report, err := seedWatched(cmd.Context(), cmd.ErrOrStderr(), s, job)
	if err != nil && len(report.Images) == 0 {
		return err
	}
	report.Images = append([]seed.SeededImage{}, report.Images...)
	var printErr error
	if asJSON {
		printErr = writeIndented(cmd.OutOrStdout(), report)
	} else if err == nil {
		printErr = printSeeded(cmd.OutOrStdout(), report)
	}
	if err != nil || printErr != nil {
		return errors.Join(err, printErr)
	}
	return someFailed(report.Failures(), len(report.Images), "are not there, or not confirmed")
}

// seedWatched does a job with a display on out.
func seedWatched(ctx context.Context, out io.Writer, s seeding, job seed.Job) (seed.Report, error) {
	d := newSeedDisplay(out, time.Now)
	defer d.close()
	return s.Seed(ctx, job, d.show)
}
