package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"registry-module/config"
	"registry-module/seed/bundle"
)

func bundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Carry images in a file to where there is no link",
		Long: `Carry images in a file to where there is no link: create makes the file where there is
one, load adds what it carries to the data directory of a site, or to the server that runs
there, and inspect says what is in it.

A bundle is an OCI image layout in a tar, which other programs can read, too.`,
		Example: `  registry-module bundle create images.tar mcr.microsoft.com/azureiotedge-agent:1.5
  registry-module bundle inspect images.tar
  registry-module bundle load images.tar`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Errorf("there is no command %q of bundle: write create, load or inspect; see '%s --help'", args[0], cmd.CommandPath())}
		},
	}
	cmd.AddCommand(bundleCreateCommand(), bundleLoadCommand(), bundleInspectCommand())
	return cmd
}

// standard is the name of a file that is standard input or output.
const standard = "-"

// openBundle opens a file with its chunks, or standard input.
func openBundle(cmd *cobra.Command, name string) (*bundle.Bundle, error) {
	if name != standard {
		b, err := bundle.Open(name, bundle.OpenOptions{})
		return b, withoutPipe(err)
	}
	b, err := bundle.NewStream(cmd.InOrStdin())
	if err != nil {
		return nil, fmt.Errorf("reading the bundle from standard input: %w", err)
	}
	return b, nil
}

// bundleDisplay shows how far it is with a bundle. What was is what has been done to
// what is there, such as "written".
type bundleDisplay struct {
	*byteBar
	was string
}

func newBundleDisplay(out io.Writer, was string) bundleDisplay {
	return bundleDisplay{newByteBar(out, time.Now), was}
}

func (d bundleDisplay) show(p bundle.Progress) {
	short := fmt.Sprintf("%d/%d blobs", p.Contents, p.TotalContents)
	if p.TotalImages > 0 {
		short = fmt.Sprintf("%d/%d images, ", p.Images, p.TotalImages) + short
	}
	d.set(p.Bytes, p.TotalBytes, short, func() string {
		return fmt.Sprintf("%s %s, %s of %s", d.was, short, sizeText(p.Bytes), sizeText(p.TotalBytes))
	})
}

func bundleInspectCommand() *cobra.Command {
	var output string
	var trusted []string
	var verify bool
	cmd := &cobra.Command{
		Use:   "inspect FILE|-",
		Short: "Say what is in a bundle",
		Long: `Say what is in a bundle: its images with their platforms and sizes, what was left out
because the site has it, its chunks and which of them are missing, and whether its
signature is of a key that is given. FILE is the name that bundle create was given, or
that of a chunk.

With --verify all of it is read and compared with its digests.

It exits with 0 where all is right, 1 where the bundle cannot be read or is not signed with
one of the keys, and 3 where something of it is lost.`,
		Example: `  registry-module bundle inspect images.tar
  registry-module bundle inspect /media/usb/images.tar --verify --trust-key bundle.pub
  registry-module bundle inspect images.tar -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags := imageFlags{output: output}
			asJSON, err := flags.isJSON()
			keys, keyErr := readPublicKeys(trusted)
			if err := joinUsage(err, keyErr); err != nil {
				return err
			}
			b, err := openBundle(cmd, args[0])
			if err != nil {
				return err
			}
			defer func() { _ = b.Close() }() // it was only read
			o := bundle.InspectOptions{TrustKeys: keys, Verify: verify}
			display := newBundleDisplay(cmd.ErrOrStderr(), "read")
			if !asJSON {
				o.Progress = display.show
			}
			in, err := bundle.Inspect(cmd.Context(), b, o)
			display.close()
			if err != nil {
				return interrupted(cmd.Context(), err)
			}
			if asJSON {
				err = writeIndented(cmd.OutOrStdout(), in)
			} else {
				err = printInspection(cmd.OutOrStdout(), in)
			}
			if err != nil {
				return err
			}
			return judged(in, len(keys) > 0)
		},
	}
	cmd.Flags().StringArrayVar(&trusted, "trust-key", nil, "a file with a public key that is trusted; can be given several times")
	cmd.Flags().BoolVar(&verify, "verify", false, "read all, and compare it with its digests")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or text where it is left out")
	return cmd
}

// joinUsage makes one error of usage of all.
func joinUsage(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

// judged is the error for a bundle that is not as it has to be.
func judged(in bundle.Inspection, keys bool) error {
	if keys && in.Signature == bundle.Unsigned {
		return bundle.ErrUnsigned
	}
	if in.Signature == bundle.Untrusted {
		return errors.New(in.Why)
	}
	if len(in.Lost) > 0 {
		return partlyError{fmt.Errorf("%s lost", quantity(len(in.Lost), "manifest or blob is", "manifests or blobs are"))}
	}
	return nil
}

// loadFlags are those of bundle load.
type loadFlags struct {
	imageFlags
	trusted []string
	receipt string
	noPin   bool
}

func bundleLoadCommand() *cobra.Command {
	var f loadFlags
	cmd := &cobra.Command{
		Use:   "load FILE|-",
		Short: "Load the images of a bundle",
		Long: `Load the images of a bundle into the data directory, or by way of the server that runs on
it, which goes on serving. Only what is missing is read. All content is compared with its
digests, and an image is seen when all of it is stored; it is pinned then. What was
interrupted goes on where it was when the same is loaded again. FILE is the name that
bundle create was given, with its chunks beside it, or - for standard input.

Images are found by the names that they have in the bundle. Where remotes are configured,
their registries must be among them; where none is, they are added.

With --trust-key, or where bundle.trustkeys (REGISTRY_BUNDLE_TRUSTKEYS) is configured, the
bundle has to be signed with one of the keys.

It exits with 0 where all images are loaded, 1 where none is, and 3 where some are: for
example, because a chunk is lost.`,
		Example: `  registry-module bundle load /media/usb/images.tar
  registry-module bundle load images.tar --trust-key bundle.pub --receipt site.receipt
  cat /media/usb/images.tar.0* | registry-module bundle load -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	cmd.Flags().StringArrayVar(&f.trusted, "trust-key", nil, "a file with a public key that is trusted; can be given several times")
	cmd.Flags().StringVar(&f.receipt, "receipt", "", "a file to say in what the site has now, for bundle create --have")
	cmd.Flags().BoolVar(&f.noPin, "no-pin", false, "do not pin the images, so that they can be removed to make room")
	f.add(cmd, "text")
	return cmd
}

func (f *loadFlags) run(cmd *cobra.Command, name string) error {
	asJSON, err := f.isJSON()
	keys, keyErr := readPublicKeys(f.trusted)
	if err := joinUsage(err, keyErr, writableDir("--receipt", f.receipt)); err != nil {
		return err
	}
	b, err := openBundle(cmd, name)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it was only read
	if len(keys) > 0 {
		if err := b.Trust(keys); err != nil {
			return err
		}
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	if cfg, _, err = dataDirFor(cfg, false); err != nil {
		return err
	}
	return withImages(cmd.Context(), cfg, func(i openedImages) error {
		c, ok := i.imageControl.(contentControl)
		if !ok {
			return errors.New("bundles cannot be loaded here")
		}
		display := newBundleDisplay(cmd.ErrOrStderr(), "loaded")
		defer display.takeLog(i.logTo)()
		o := loadOptions{NoPin: f.noPin}
		if !asJSON {
			o.Progress = display.show
		}
		receipt, err := c.Load(cmd.Context(), b, o)
		display.close()
		return f.report(cmd.Context(), cmd, receipt, len(b.Description().Images), err, asJSON)
	})
}

// report writes the receipt, prints what was loaded of all images, and makes the error of the
// command.
func (f *loadFlags) report(ctx context.Context, cmd *cobra.Command, receipt bundle.Receipt, all int, err error, asJSON bool) error {
	if err != nil {
		err = interrupted(ctx, err)
	}
	if errors.Is(err, bundle.ErrPartly) {
		err = fmt.Errorf("%w\nbring what is lost, and load this again, which reads only what is missing; `registry-module bundle inspect` lists the chunks", err)
	}
	if f.receipt != "" && receipt.Contents != nil {
		err = errors.Join(err, writeReceipt(f.receipt, receipt))
	}
	if asJSON {
		err = errors.Join(err, writeIndented(cmd.OutOrStdout(), receipt))
	} else if printErr := printReceipt(cmd.OutOrStdout(), receipt, all); printErr != nil {
		err = errors.Join(err, printErr)
	}
	if _, stopped := errors.AsType[interruption](err); err != nil && !stopped && len(receipt.Images) > 0 {
		return partlyError{err}
	}
	return err
}

// writableDir tells whether the directory of a file is there, which the flag names.
func writableDir(flag, name string) error {
	if name == "" {
		return nil
	}
	if info, err := os.Stat(dirOf(name)); err != nil {
		return fmt.Errorf("%s %s: its directory: %w", flag, name, withoutPath(err))
	} else if !info.IsDir() {
		return fmt.Errorf("%s %s: %s is not a directory", flag, name, dirOf(name))
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return fmt.Errorf("%s %s is a directory", flag, name)
	}
	return nil
}
