package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"registry-module/config"
	"registry-module/seed"
)

// seedOptions are the flags and arguments of seed.
type seedOptions struct {
	imageFlags
	wantFlags
	images               []string
	noPin, prune, dryRun bool
	to, tokenFile        string
	// pruneGiven tells that prune says more than files.
	pruneGiven bool
}

func seedCommand() *cobra.Command {
	var o seedOptions
	cmd := &cobra.Command{
		Use:   "seed [IMAGE...] [-f FILE]...",
		Short: "Fetch images before anybody asks for them, and pin them",
		Long: `Fetch images with all that belongs to them: the platforms of an index, and what is
attached, such as signatures, SBOMs and attestations. They are pinned: nothing of them is
removed to make room. What is there already is not fetched again, and what was
interrupted goes on where it was. One image that fails stops no other.

IMAGE is written as in deployments: [HOST/]NAME[:TAG|@DIGEST]. $upstream:8000/NAME and
localhost:8000/NAME stand for what this server is asked for as NAME. FILE is a list with
an image in each line, an IoT Edge deployment manifest, a compose file, Kubernetes
manifests (helm template prints them), or a seed file; which of them is found out. - is
standard input. ${VARIABLE} in them is taken from the environment.

The running server does it, with its remotes and limits; where none runs, this command
does, as the user that owns the data directory, and asks hosts that are not configured,
too. With --to it is a server elsewhere, at its admin address, which needs the token that
REGISTRY_SEED_TOKENFILE names there.

It exits with 0 where all images are there, 1 where none is or they do not fit, 2 when
something that was written makes no sense, and 3 when some are there.`,
		Example: `  registry-module seed mcr.microsoft.com/azureiotedge-agent:1.5 --platform linux/arm64
  registry-module seed -f deployment.json --dry-run
  registry-module seed -f seed.yml --prune
  helm template ./chart | registry-module seed -f - -o json
  registry-module seed -f seed.yml --to https://gateway.example.com:5001 --token-file token`,
		RunE: func(cmd *cobra.Command, images []string) error {
			o.images, o.pruneGiven = images, cmd.Flags().Changed("prune")
			job, server, err := o.read(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return usageError{err}
			}
			return o.with(cmd.Context(), cmd.ErrOrStderr(), job, server, func(i openedImages) error {
				if o.dryRun {
					return o.plan(cmd.Context(), cmd.OutOrStdout(), i.seeding, job)
				}
				return o.seed(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), i, job)
			})
		},
	}
	o.imageFlags.add(cmd, "text")
	o.wantFlags.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.noPin, "no-pin", false, "do not pin")
	flags.BoolVar(&o.prune, "prune", false, "unpin what was seeded before and is not named now")
	flags.BoolVar(&o.dryRun, "dry-run", false, "show what would be fetched, how much that is, and whether it fits; fetch nothing")
	flags.StringVar(&o.to, "to", "", "the URL of the admin address of a server that is to do it")
	flags.StringVar(&o.tokenFile, "token-file", "", "the file with the token for --to")
	return cmd
}

// read reads what is to be seeded, and where if that is by --to. The error has all that is
// wrong. Remarks go to notes.
func (o *seedOptions) read(stdin io.Reader, notes io.Writer) (job seed.Job, server *url.URL, err error) {
	var wrong []error
	note := func(err error) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	if o.output != "" && o.output != "json" {
		note(fmt.Errorf("there is no output format %q: write json, or leave it out for text", o.output))
	}
	switch {
	case o.to == "" && o.tokenFile != "":
		note(errors.New("--token-file is for a server elsewhere: name it by --to, or leave the token out"))
	case o.to != "" && o.tokenFile == "":
		note(errors.New("--to needs --token-file, with the file that holds the token of REGISTRY_SEED_TOKENFILE there"))
	case o.to != "":
		if _, err := config.ReadToken(o.tokenFile); err != nil {
			note(fmt.Errorf("--token-file: %w", err))
		}
	}
	if o.to != "" {
		server, err = parseServer(o.to)
		note(err)
	}
	if len(o.images) == 0 && len(o.files) == 0 {
		note(errors.New("name the images to seed, or a file that does by -f"))
	}
	job.Wants, job.Prune, err = o.wantFlags.read(stdin, notes, o.images)
	note(err)
	if o.pruneGiven {
		job.Prune = o.prune
	}
	for i := range job.Wants {
		job.Wants[i].Loose = job.Wants[i].Loose || o.noPin
	}
	if len(wrong) == 0 && len(job.Wants) == 0 {
		note(errors.New("no image is named by " + strings.Join(o.files, ", ")))
	}
	return job, server, errors.Join(wrong...)
}

// with does something with what is to be seeded: the server elsewhere, or the data
// directory.
func (o *seedOptions) with(ctx context.Context, notes io.Writer, job seed.Job, server *url.URL, do func(openedImages) error) error {
	if server == nil {
		cfg, err := config.Load(o.config)
		if err != nil {
			return err
		}
		cfg, done, err := dataDirFor(cfg, o.dryRun)
		if err != nil {
			return err
		}
		err = errors.Join(withSeeding(ctx, cfg, job, do), done())
		if _, partly := errors.AsType[partlyError](err); !partly && errors.Is(err, context.Canceled) {
			err = interrupted(ctx, err)
		}
		return err
	}
	if server.Scheme == "http" {
		_, _ = fmt.Fprintln(notes, "warning: --to is http, by which everybody on the way can read the token") // the result says what counts
	}
	return do(openedImages{seeding: newRemoteServer(server, o.tokenFile).client()})
}

// plan prints what a job comes to.
func (o *seedOptions) plan(ctx context.Context, out io.Writer, s seeding, job seed.Job) error {
	plan, err := s.Plan(ctx, job)
	if err != nil {
		return err
	}
	print := printPlan
	if o.output == "json" {
		print = func(out io.Writer, p seed.Plan) error { return writeIndented(out, p) }
	}
	if err := print(out, plan); err != nil {
		return err
	}
	return planError(plan)
}

// seed does a job, and prints what has come of it.
func (o *seedOptions) seed(ctx context.Context, out, notes io.Writer, i openedImages, job seed.Job) error {
	display := newSeedDisplay(notes, time.Now)
	giveBack := display.takeLog(i.logTo)
	report, err := i.seeding.Seed(ctx, job, func(p seed.Progress) {
		if ctx.Err() == nil { // that images fail which were interrupted is no news
			display.show(p)
		}
	})
	giveBack()
	display.close()
	print := printSeeded
	if o.output == "json" {
		print = func(out io.Writer, r seed.Report) error { return writeIndented(out, r) }
	}
	if err == nil || len(report.Images) > 0 && !errors.Is(err, seed.ErrNoRoom) {
		if err := print(out, report); err != nil {
			return err
		}
	}
	return reportError(report, err)
}
