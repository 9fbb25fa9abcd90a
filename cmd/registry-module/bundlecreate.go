package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"registry-module/config"
	"registry-module/internal/durable"
	"registry-module/seed"
	"registry-module/seed/bundle"
)

// createFlags are those of bundle create, with what they say.
type createFlags struct {
	imageFlags
	wantFlags
	file        string // of the bundle
	all, cached bool
	have        []string
	chunkSize   string
	signKey     string

	wants  []seed.Want
	chunk  int64
	at     []bundle.Content // what the site has
	sign   ed25519.PrivateKey
	asJSON bool
}

func bundleCreateCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create FILE|- [IMAGE...]",
		Short: "Make a bundle of images",
		Long: `Make a bundle of images, which are given as for seed: by their names, and in files of any
format that seed reads (-f). What is not stored of them is fetched first, and not pinned,
unless there is --cached. With --all it is all images that are stored and complete.

With --chunk-size the bundle is split: FILE.001, FILE.002 and so on, with their sums in
FILE.sums, as sha256sum -c reads them, and a copy of the beginning in FILE.head, which is
needed only if the first chunk is lost. 4GiB is for FAT32. ` + "`cat FILE.0*`" + ` is the tar.

With --have, what a site has is left out: the file is from ` + "`registry-module ls -o have`" + `
there, or a receipt of bundle load. The bundle can be loaded only where all of that is.

The same content makes the same bytes. While a bundle is made, the files have names that
end in .tmp. FILE - is standard output.`,
		Example: `  registry-module bundle create images.tar mcr.microsoft.com/azureiotedge-agent:1.5 --platform linux/arm64
  registry-module bundle create /media/usb/images.tar -f deployment.json --chunk-size 4GiB --sign-key bundle.key
  registry-module bundle create update.tar -f deployment.json --have site.have
  registry-module bundle create - --all | ssh site registry-module bundle load -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return usageError{err}
			}
			cfg, err := config.Load(f.config)
			if err != nil {
				return err
			}
			do := func(i openedImages) error { return f.create(cmd, cfg, i) }
			if f.all || f.cached {
				return withImages(cmd.Context(), cfg, do)
			}
			if cfg, _, err = dataDirFor(cfg, false); err != nil {
				return err
			}
			return withSeeding(cmd.Context(), cfg, seed.Job{Wants: f.wants}, do)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "all images that are stored and complete")
	flags.BoolVar(&f.cached, "cached", false, "fetch nothing: only what is stored")
	flags.StringArrayVar(&f.have, "have", nil, "a file that lists what the site has, which is left out; can be given several times")
	flags.StringVar(&f.chunkSize, "chunk-size", "", "split the bundle in files of this size, for example 4GiB")
	flags.StringVar(&f.signKey, "sign-key", "", "a file with the private key to sign the bundle with (openssl genpkey -algorithm ed25519)")
	f.wantFlags.add(cmd)
	f.imageFlags.add(cmd, "text")
	return cmd
}

// check tells all that is wrong with the command line.
func (f *createFlags) check(cmd *cobra.Command, args []string) error {
	f.file = args[0]
	images := args[1:]
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	f.asJSON, err = f.isJSON()
	note(err)
	switch {
	case f.all && (len(images) > 0 || len(f.files) > 0):
		note(errors.New("--all is all that is stored: leave names of images and -f out"))
	case f.all && f.noReferrers:
		note(errors.New("--all is all that is stored, with what is attached to it: leave --no-referrers out"))
	case !f.all && len(images) == 0 && len(f.files) == 0:
		note(errors.New("name the images to carry, or a file that does (-f), or write --all"))
	}
	if f.file == standard {
		if f.chunkSize != "" {
			note(errors.New("standard output cannot be split: write a FILE, or leave --chunk-size out"))
		}
		if f.asJSON {
			note(errors.New("standard output is for the bundle: write a FILE, or leave -o json out"))
		}
		if isTerminal(cmd.OutOrStdout()) {
			note(errors.New("standard output is a terminal: write a FILE, or send it elsewhere"))
		}
	} else {
		note(writableDir("FILE", f.file))
	}
	if f.chunkSize != "" {
		f.chunk, err = config.ParseSize(f.chunkSize)
		if err == nil && f.chunk < bundle.MinChunkSize {
			err = errors.New("is too small: write 1MiB or more")
		}
		if err != nil {
			note(fmt.Errorf("--chunk-size %q %w", f.chunkSize, err))
		}
	}
	note(f.readHave())
	note(f.readSignKey())
	f.wants, _, err = f.wantFlags.read(cmd.InOrStdin(), cmd.ErrOrStderr(), images)
	note(err)
	for i := range f.wants {
		f.wants[i].Loose = true
	}
	return errors.Join(errs...)
}

// readHave reads what the site has.
func (f *createFlags) readHave() error {
	var errs []error
	for _, name := range f.have {
		file, _, err := durable.Open(durable.OS{}, name, 0)
		if err == nil {
			var more []bundle.Content
			more, err = bundle.ReadHave(bufio.NewReader(file))
			_ = file.Close() // it was only read
			f.at = append(f.at, more...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--have %s: %w", name, withoutPath(err)))
		}
	}
	return errors.Join(errs...)
}

// readSignKey reads the key to sign with. Errors have nothing of it.
func (f *createFlags) readSignKey() error {
	if f.signKey == "" {
		return nil
	}
	text, err := durable.ReadFile(durable.OS{}, f.signKey, maxKeyFile)
	if err == nil {
		f.sign, err = bundle.ReadPrivateKey(text)
	}
	if err != nil {
		return fmt.Errorf("--sign-key %s: %w", f.signKey, withoutPath(err))
	}
	return nil
}

// created is what was made.
type created struct {
	File       string   `json:"file"`
	Images     []string `json:"images"`
	Contents   int      `json:"contents"`
	Size       int64    `json:"size"` // of those, in bytes
	Absent     int      `json:"absent"`
	AbsentSize int64    `json:"absentSize"`
	KeyID      string   `json:"keyID,omitempty"` // of the key that it is signed with
}

// create makes the bundle.
func (f *createFlags) create(cmd *cobra.Command, cfg *config.Config, i openedImages) error {
	ctx, notes := cmd.Context(), cmd.ErrOrStderr()
	content, ok := i.imageControl.(contentControl)
	if !ok {
		return errors.New("bundles cannot be made here")
	}
	images, err := f.fetch(ctx, notes, i)
	if err != nil {
		return err
	}
	c := &collector{createFlags: f, images: i, cfg: cfg, notes: notes}
	roots, err := c.roots(ctx, images)
	if err != nil {
		return interrupted(ctx, asUsage(err))
	}
	d, err := bundle.Describe(ctx, content, roots, bundle.DescribeOptions{
		Have: f.at, Child: c.isWanted,
		Skip: func(i bundle.Image, m bundle.Manifest, why error) {
			c.note("left out %s, which is attached to %s: %v", m.Digest, i.Reference(), why)
		},
	})
	if err != nil {
		return interrupted(ctx, err)
	}
	display := newBundleDisplay(notes, "written")
	defer display.takeLog(i.logTo)()
	o := bundle.WriteOptions{Sign: f.sign}
	if !f.asJSON {
		o.Progress = display.show
	}
	if f.file == standard {
		err = writeStandard(ctx, cmd.OutOrStdout(), d, content, o)
	} else {
		err = bundle.WriteFile(ctx, f.file, d, content, bundle.FileOptions{WriteOptions: o, ChunkSize: f.chunk})
	}
	display.close()
	if err != nil {
		return interrupted(ctx, err)
	}
	return f.report(cmd, d)
}

// writeStandard writes the bundle to standard output.
func writeStandard(ctx context.Context, out io.Writer, d bundle.Description, src bundle.Source, o bundle.WriteOptions) error {
	buffered := bufio.NewWriterSize(out, 256<<10)
	if err := bundle.Write(ctx, buffered, d, src, o); err != nil {
		return err // without its end, so that nobody takes it for whole
	}
	return buffered.Flush()
}

// report says what was made: on standard output, unless that is the bundle.
func (f *createFlags) report(cmd *cobra.Command, d bundle.Description) error {
	done := created{File: f.file, Images: []string{}}
	for _, i := range d.Images {
		done.Images = append(done.Images, i.Reference())
	}
	for _, c := range d.Contents {
		if c.Absent {
			done.Absent++
			done.AbsentSize += c.Size
		} else {
			done.Contents++
			done.Size += c.Size
		}
	}
	if f.sign != nil {
		public, _ := f.sign.Public().(ed25519.PublicKey) // it is no other
		done.KeyID = bundle.KeyID(public)
	}
	if f.asJSON {
		return writeIndented(cmd.OutOrStdout(), done)
	}
	out := cmd.OutOrStdout()
	if f.file == standard {
		out = cmd.ErrOrStderr()
	}
	text := fmt.Sprintf("%s: %s, %s, %s", printable(f.file), quantity(len(done.Images), "image", "images"),
		quantity(done.Contents, "manifest or blob", "manifests and blobs"), sizeText(done.Size))
	if len(f.have) > 0 {
		text += fmt.Sprintf("; %s, %s, left out, since the site has them", quantity(done.Absent, "other", "others"), sizeText(done.AbsentSize))
	}
	if done.KeyID != "" {
		text += "; signed with key " + done.KeyID
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// fetch brings in what is not stored of what is wanted, and returns the images that are
// meant.
func (f *createFlags) fetch(ctx context.Context, notes io.Writer, i openedImages) (images []seed.Want, _ error) {
	if f.all {
		return nil, nil
	}
	if f.cached {
		return storedWants(ctx, i, f.wants)
	}
	bar := newByteBar(notes, time.Now)
	defer bar.takeLog(i.logTo)()
	report, err := i.seeding.Seed(ctx, seed.Job{Wants: f.wants}, func(p seed.Progress) {
		if f.asJSON {
			return
		}
		short := fmt.Sprintf("fetching %d/%d images", p.Images, p.TotalImages)
		bar.set(p.Bytes, p.TotalBytes, short, func() string {
			return fmt.Sprintf("%s, %s of %s", short, sizeText(p.Bytes), sizeText(p.TotalBytes))
		})
	})
	bar.close()
	if err != nil {
		return nil, interrupted(ctx, err)
	}
	var errs []error
	for _, image := range report.Images {
		switch {
		case image.State == seed.Failed:
			errs = append(errs, fmt.Errorf("%s: %s", printable(image.Image), printable(image.Error)))
			continue
		case image.State == seed.Unconfirmed && !f.asJSON:
			_, _ = fmt.Fprintf(notes, "warning: %s is as it was stored, since its remote does not answer\n", printable(image.Image))
		}
		images = append(images, f.wantOf(image.Image))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("not all images can be had, so that no bundle is made: %w", errors.Join(errs...))
	}
	return images, nil
}

// wantOf is that by which an image was wanted.
func (f *createFlags) wantOf(image string) seed.Want {
	for _, w := range f.wants {
		if w.Image == image || w.Tags != nil && strings.HasPrefix(image, w.Image+":") {
			w.Image, w.Tags = image, nil
			return w
		}
	}
	return seed.Want{Image: image, Platforms: f.platforms, Bare: f.noReferrers}
}
