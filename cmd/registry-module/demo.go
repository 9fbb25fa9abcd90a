package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"registry-module/config"
)

// demoOptions are the flags of the demo.
type demoOptions struct {
	addr   string
	output string
}

func demoCommand() *cobra.Command {
	var opts demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what it does: sample images, pulled cold, warm, and with the remote gone",
		Long: `Start a sample registry behind a slow link and this program in front of it, both
on the loopback interface and in a temporary directory. Pull each sample image
twice, then once more with the sample registry switched off, and show what each
pull cost. On a terminal, both stay up for pulls of your own until Ctrl-C.`,
		Example: `  registry-module demo
  registry-module demo --addr 127.0.0.1:8000
  registry-module demo -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(opts.output); err != nil {
				return usageError{err}
			}
			return demo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), opts)
		},
	}
	cmd.Flags().StringVar(&opts.addr, "addr", "127.0.0.1:0", "address to serve on; port 0 chooses a free one")
	cmd.Flags().StringVarP(&opts.output, "output", "o", "", "output format: json")
	return cmd
}

// demo runs the demonstration. Results go to out, progress to progress.
func demo(ctx context.Context, out, progress io.Writer, opts demoOptions) (err error) {
	// The embedded app's log would stand between the lines of the display.
	logrus.SetOutput(io.Discard)
	dir, err := os.MkdirTemp("", "registry-module-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	fmt.Fprintln(progress, "Making sample images ...")
	sample, err := newSampleRegistry(ctx)
	if err != nil {
		return fmt.Errorf("sample registry: %w", err)
	}
	defer sample.stop()
	ln, err := net.Listen("tcp", opts.addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	p, err := wire(ctx, demoConfig(dir, sample.addr), nil)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer func() { err = errors.Join(err, p.Close()) }()

	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	log := logrus.New()
	log.SetOutput(io.Discard)
	go func() {
		done <- run(serving, log, func() time.Duration { return drainTimeout }, served{newHTTPServer(p.handler, log), ln})
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-done)
	}()

	rows, err := demoPulls(ctx, progress, ln.Addr().String(), sample)
	if err != nil {
		return err
	}
	if opts.output == "json" {
		return json.NewEncoder(out).Encode(rows)
	}
	if err := printRows(out, rows); err != nil {
		return err
	}
	if !isTerminal(out) {
		return nil
	}
	sample.resume()
	printClients(out, ln.Addr().String(), rows[0].Image)
	<-ctx.Done()
	return nil
}

// demoConfig is what a user would configure by
// REGISTRY_PROXY_REMOTEURL=http://<remote> and the data directory.
func demoConfig(dir, remote string) *config.Config {
	return &config.Config{
		Stock:   &configuration.Configuration{Log: configuration.Log{AccessLog: configuration.AccessLog{Disabled: true}}},
		DataDir: dir,
		Remotes: []config.Remote{{
			URL: &url.URL{Scheme: "http", Host: remote}, Number: 1, Default: true, TagTTL: config.DefaultTagTTL,
			StaleWhileRevalidate: config.DefaultStaleWhileRevalidate, NegativeTTL: config.DefaultNegativeTTL,
		}},
	}
}

// demoRow is what the pulls of one image cost.
type demoRow struct {
	Image            string        `json:"image"`
	Bytes            int64         `json:"bytes"` // of one pull
	UpstreamBytes    int64         `json:"upstreamBytes"`
	ServedBytes      int64         `json:"servedBytes"`
	Cold             time.Duration `json:"coldNanoseconds"`
	Warm             time.Duration `json:"warmNanoseconds"`
	Offline          time.Duration `json:"offlineNanoseconds"`
	ColdRequests     int64         `json:"coldUpstreamRequests"`
	WarmRequests     int64         `json:"warmUpstreamRequests"`
	OfflineAvailable bool          `json:"offlineAvailable"`
}

// demoPulls pulls each image cold and warm, then all of them with the sample
// registry switched off.
func demoPulls(ctx context.Context, progress io.Writer, addr string, sample *sampleRegistry) ([]demoRow, error) {
	var rows []demoRow
	for _, image := range sample.images {
		row := demoRow{Image: image}
		requests, bytes := sample.requests.Load(), sample.bytes.Load()
		cold, err := timedPull(ctx, progress, addr, image, "cold")
		if err != nil {
			return nil, err
		}
		row.Cold, row.Bytes = cold.took, cold.bytes
		row.ColdRequests = sample.requests.Load() - requests
		row.UpstreamBytes = sample.bytes.Load() - bytes

		requests = sample.requests.Load()
		warm, err := timedPull(ctx, progress, addr, image, "warm")
		if err != nil {
			return nil, err
		}
		row.Warm = warm.took
		row.WarmRequests = sample.requests.Load() - requests
		row.ServedBytes = cold.bytes + warm.bytes
		rows = append(rows, row)
	}
	sample.pause()
	for i := range rows {
		offline, err := timedPull(ctx, progress, addr, rows[i].Image, "remote off")
		if err != nil {
			return nil, err
		}
		rows[i].Offline, rows[i].OfflineAvailable = offline.took, true
		rows[i].ServedBytes += offline.bytes
	}
	return rows, nil
}

type pulled struct {
	bytes int64
	took  time.Duration
}

// timedPull pulls image through the module, as a client on this platform would.
func timedPull(ctx context.Context, progress io.Writer, addr, image, label string) (pulled, error) {
	start := time.Now()
	n, err := pullImage(ctx, addr+"/"+image, func(total int64) io.Writer {
		return newBar(progress, total, fmt.Sprintf("%-22s %-10s", image, label))
	})
	if err != nil {
		return pulled{}, fmt.Errorf("pulling %s (%s): %w", image, label, err)
	}
	return pulled{n, time.Since(start)}, nil
}

// newBar returns a display of how many of total bytes were written to it: a
// live one on a terminal, a line at the end elsewhere.
func newBar(w io.Writer, total int64, label string) io.Writer {
	opts := []progressbar.Option{
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(label),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetWidth(28),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }),
	}
	if !isTerminal(w) {
		opts = append(opts, progressbar.OptionSetVisibility(false))
		fmt.Fprintf(w, "%s %s\n", label, humanize.IBytes(uint64(total)))
	}
	return progressbar.NewOptions64(total, opts...)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// printRows prints the table of results.
func printRows(out io.Writer, rows []demoRow) error {
	fmt.Fprintf(out, "\nThe sample registry is behind a link of %s/s. Times are of whole pulls.\n\n", humanize.Bytes(sampleRate))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "image\tfrom upstream\tserved\tcold\twarm\tremote off\tupstream requests cold\twarm\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%v\t%v\t%d\t%d\t\n", r.Image,
			humanize.IBytes(uint64(r.UpstreamBytes)), humanize.IBytes(uint64(r.ServedBytes)),
			r.Cold.Round(time.Millisecond), r.Warm.Round(time.Millisecond), r.Offline.Round(time.Millisecond),
			r.ColdRequests, r.WarmRequests)
	}
	return w.Flush()
}

// printClients tells how to pull with real clients.
func printClients(out io.Writer, addr, image string) {
	ref := addr + "/" + image
	fmt.Fprintf(out, `
It stays up until Ctrl-C. Try it:

  docker pull %[1]s
  podman pull --tls-verify=false %[1]s
  ctr images pull --plain-http %[1]s
  curl http://%[2]s/v2/_catalog
`, ref, addr)
}
