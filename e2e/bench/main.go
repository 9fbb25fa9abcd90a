// Command bench prints what registry-module costs and gains, side by side with
// the stock registry in proxy mode, with zot, with nginx, and with no proxy at all. It is
// the program behind `make bench`.
//
//	go run ./e2e/bench [-run regexp] [-quick] [-blobs n] [-json file]
//		[-markdown docs/performance.md [-date when] [-with earlier.json]] [-profile dir]
//
// The registry that all pull from is a synthetic one behind a shaped link
// (package synth), the clients are as cheap as they can be (package load);
// both run in processes of their own, so that CPU time and memory of a server
// are its own. Servers take turns within each repetition, and what is shown are
// medians. Figures are reported and never asserted: the exit status tells only
// whether all could be measured.
//
// It trusts package lab with building and running programs, and needs nginx
// and wrk from the system's packages. All traffic stays on loopback. It sees
// registry-module only from outside, as a user does: with -profile it asks for profiles
// at its admin address.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"registry-module/e2e/bench/internal/load"
	"registry-module/e2e/bench/internal/synth"
	"registry-module/e2e/lab"
)

// The hidden commands, by which the program starts itself as another process.
const (
	loadCommand     = "load-process"
	upstreamCommand = "upstream-process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case loadCommand:
			return load.Main(ctx, os.Stdin, os.Stdout)
		case upstreamCommand:
			return serveUpstream(ctx, args[1:])
		}
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	only := flags.String("run", "", "run only the scenarios whose name matches this `regexp`: "+strings.Join(names, ", "))
	quick := flags.Bool("quick", false, "smaller images and fewer repetitions: a smoke test, not a measurement")
	blobs := flags.Int("blobs", 50_000, "how many blobs the volume of many-blobs has: 1000000 take minutes and 20 GB of disk")
	profile := flags.String("profile", "", "write CPU profiles of the module to this `directory`, for go tool pprof: the figures are a little worse meanwhile")
	document := flags.String("markdown", "", "write the document to this `file`; what is written by hand in it stays")
	date := flags.String("date", "", "what the document says of `when` it was; empty is nothing")
	var earlier []string
	flags.Func("with", "take the rows of an earlier run into the table, from a `file` that -json has written; may be repeated", func(path string) error {
		earlier = append(earlier, path)
		return nil
	})
	out := flags.String("json", "", "write all samples to this `file`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}

	b, err := newBench(ctx, options{quick: *quick, blobs: *blobs, profile: *profile}, os.Stderr)
	if err != nil {
		return err
	}
	measured := b.runAll(ctx, pattern)
	for _, path := range earlier {
		if err := b.takeUp(path); err != nil {
			return errors.Join(err, b.close())
		}
	}
	if err := errors.Join(b.table.Markdown(os.Stdout), b.notes(os.Stdout), b.close()); err != nil {
		return err
	}
	if *document != "" {
		if err := b.writePaper(*document, *date); err != nil {
			return err
		}
	}
	if *out != "" {
		raw, err := json.MarshalIndent(b.samples(), "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the samples: %w", err)
		}
		if err := os.WriteFile(*out, append(raw, '\n'), 0o644); err != nil {
			return fmt.Errorf("writing the samples: %w", err)
		}
	}
	return measured
}

// loadProcess is the command line of a load in a process of its own.
func loadProcess(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", loadCommand)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// serveUpstream is the process of the synthetic registry.
func serveUpstream(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(upstreamCommand, flag.ContinueOnError)
	registry := flags.String("registry", "", "listen `address` of the registry")
	control := flags.String("control", "", "listen `address` of what steers it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s := synth.NewServer()
	ended := make(chan error, 2)
	for addr, handler := range map[string]http.Handler{*registry: s, *control: s.Control()} {
		server := &http.Server{
			Addr: addr, Handler: handler, ReadHeaderTimeout: 10 * time.Second,
			ConnContext: lab.ConnContext,
		}
		defer server.Close()
		go func() { ended <- server.ListenAndServe() }()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}
