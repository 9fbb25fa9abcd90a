package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"registry-module/auth"
	"registry-module/config"
	"registry-module/doctor"
	"registry-module/doctor/images"
	"registry-module/doctor/machine"
	"registry-module/doctor/report"
	"registry-module/iotedge/workload"
	"registry-module/upstream"
)

// doctorOptions are the flags and the argument of the command.
type doctorOptions struct {
	config  string
	remote  string
	image   string
	output  string
	ascii   bool
	timeout time.Duration
}

func doctorCommand() *cobra.Command {
	var opts doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor [REMOTE]",
		Short: "Find out why images cannot be pulled",
		Long: `Go the way to each remote registry that is configured, or to REMOTE (its host, alias
or number), step by step: name, proxy, connection, certificate, clocks, log-in, a
manifest. Then look at what this machine gives to the program: data directory, free
space, addresses to listen on. Each failure says what to do. Nothing is changed here,
and no secret is shown. An identity token is used once, unless a server runs.

It exits with 0 where nothing has failed, 1 where something has, and 3 where some
remotes are in order and others are not.`,
		Example: `  registry-module doctor
  registry-module doctor --config /etc/distribution/config.yml
  registry-module doctor quay.io --image prometheus/busybox:latest
  registry-module doctor 2 -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.remote = args[0]
			}
			if err := checkFormat(opts.output); err != nil {
				return usageError{err}
			}
			if opts.timeout <= 0 {
				return usageError{fmt.Errorf("--timeout %v is no time at all: write for example 10s", opts.timeout)}
			}
			opts.ascii = opts.ascii || !isUTF8(os.Getenv)
			return runDoctor(cmd.Context(), cmd.OutOrStdout(), doctor.Doctor{
				Timeout: opts.timeout, UserAgent: "registry-module/" + version,
			}, opts)
		},
	}
	cmd.Flags().StringVar(&opts.config, "config", "", "configuration file, as the argument of serve")
	cmd.Flags().StringVar(&opts.image, "image", "", "image whose manifest is asked for, NAME[:TAG]")
	cmd.Flags().StringVarP(&opts.output, "output", "o", "", "output format: json")
	cmd.Flags().BoolVar(&opts.ascii, "ascii", false, "print ASCII only, as without a UTF-8 locale")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", report.DefaultTimeout, "how long each step may take")
	return cmd
}

// isUTF8 reports whether the locale has the marks (POSIX, "Internationalization
// Variables": the first that is not empty counts).
func isUTF8(getenv func(string) string) bool {
	locale := strings.ToLower(cmp.Or(getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}

// runDoctor looks at everything, prints the report to out, and returns what has
// failed.
func runDoctor(ctx context.Context, out io.Writer, d doctor.Doctor, opts doctorOptions) error {
	local, cfg := checkConfig(opts.config)
	var remotes []report.RemoteReport
	if cfg != nil {
		chosen, err := chooseRemotes(cfg.Remotes, opts.remote)
		if err != nil {
			return usageError{err}
		}
		if err := checkImage(chosen, opts.image); err != nil {
			return usageError{err}
		}
		for _, r := range chosen {
			remotes = append(remotes, checkRemote(ctx, d, cfg, r, opts.image))
		}
		local = append(local, doctorMachine(cfg, d.Timeout).Check(ctx)...)
	}
	found := report.NewReport(local, remotes)
	if err := printReport(out, found, opts); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	return failure(found)
}

func printReport(out io.Writer, found report.Report, opts doctorOptions) error {
	if opts.output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(found)
	}
	return found.WriteText(out, opts.ascii)
}

// checkConfig loads the configuration. All that is wrong with it is a finding of its
// own, and then there is no configuration.
func checkConfig(path string) ([]report.Finding, *config.Config) {
	const step = "configuration"
	cfg, err := config.Load(path)
	if err != nil {
		var findings []report.Finding
		problems := []error{err}
		if all, ok := errors.AsType[*config.Errors](err); ok {
			problems = all.Unwrap()
		}
		for _, problem := range problems {
			findings = append(findings, report.Finding{
				Step: step, Status: report.Failed, Text: oneLine(problem.Error()),
				Advice: "Correct it in the environment or in the configuration file; nothing else is looked at before.",
			})
		}
		return findings, nil
	}
	source := "the environment"
	if cfg.Source != "" {
		source = cfg.Source + " and the environment"
	}
	findings := []report.Finding{{Step: step, Status: report.OK, Text: source + " can be used"}}
	if len(cfg.Remotes) == 0 {
		findings[0] = report.Finding{
			Step: step, Status: report.Warning, Text: source + " can be used, but no remote registry is configured",
			Advice: "Set REGISTRY_PROXY_REMOTEURL, for example to https://registry-1.docker.io, unless only what is stored is to be served.",
		}
	}
	for _, w := range cfg.Warnings {
		findings = append(findings, report.Finding{
			Step: step, Status: report.Warning, Text: oneLine(w), Advice: "Correct or remove the setting.",
		})
	}
	return findings, cfg
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// chooseRemotes returns the remote that name means, or all where it is empty.
func chooseRemotes(remotes []config.Remote, name string) ([]config.Remote, error) {
	if name == "" {
		return remotes, nil
	}
	host := name
	if u, err := upstream.ParseURL(name); err == nil {
		host = u.Host
	}
	for _, means := range []func(config.Remote) bool{
		func(r config.Remote) bool { return r.Alias == name },
		func(r config.Remote) bool { return r.URL.Host == host || r.URL.Hostname() == host },
		func(r config.Remote) bool { return strconv.Itoa(r.Number) == name },
	} {
		if i := slices.IndexFunc(remotes, means); i >= 0 {
			return remotes[i : i+1], nil
		}
	}
	if len(remotes) == 0 {
		return nil, fmt.Errorf("there is no remote %q: none is configured", name)
	}
	var known []string
	for _, r := range remotes {
		text := fmt.Sprintf("%d (%s", r.Number, r.URL.Host)
		if r.Alias != "" {
			text += ", " + r.Alias
		}
		known = append(known, text+")")
	}
	return nil, fmt.Errorf("there is no remote %q: configured are %s", name, strings.Join(known, ", "))
}

// checkImage tells what is wrong with --image.
func checkImage(remotes []config.Remote, image string) error {
	if image == "" {
		return nil
	}
	if len(remotes) != 1 {
		return fmt.Errorf("--image is of one remote, and there are %d: name it, for example 'doctor quay.io --image %s'", len(remotes), image)
	}
	if _, _, err := images.Parse(remotes[0].URL.Host, image); err != nil {
		return fmt.Errorf("--image: %w", err)
	}
	return nil
}

func checkRemote(ctx context.Context, d doctor.Doctor, cfg *config.Config, r config.Remote, image string) report.RemoteReport {
	if image == "" {
		image = images.Default(r.URL.Host)
	}
	remote := doctorRemote(cfg, r, image)
	var bundle *workload.TrustBundle
	var err error
	if r.TrustBundle {
		bundle, err = newTrustBundle(nil)
	}
	if err != nil {
		return report.RemoteReport{Number: r.Number, Host: r.URL.Host, Alias: r.Alias, Image: image,
			Checks: []report.Finding{report.Fail("Correct it, or set "+remote.Variable("TRUSTBUNDLE")+"=false.", "the trust bundle cannot be asked for: %v", err)}}
	}
	if bundle != nil {
		defer func() { _ = bundle.Close() }() // it was only asked
	}
	remote.Authorities = authoritiesOf(r, bundle)
	checks := d.Check(ctx, remote)
	if f, ok := checkServer(ctx, cfg.DataDir, r.URL.Host, d.Timeout); ok {
		checks = append(checks, f)
	}
	return report.RemoteReport{Number: r.Number, Host: r.URL.Host, Alias: r.Alias, Image: image, Checks: checks}
}

// isOffline tells whether no remote is to be contacted now.
func isOffline(cfg *config.Config) bool {
	o, _ := readOverride(overridePath(cfg.DataDir)) // where it cannot be read, it counts as for the server
	return newOfflineRules(cfg).status(o, time.Now()).Offline
}

// doctorRemote is a remote of the configuration, for package doctor.
func doctorRemote(cfg *config.Config, r config.Remote, image string) doctor.Remote {
	remote := doctor.Remote{
		Number:        r.Number,
		URL:           r.URL,
		Offline:       isOffline(cfg),
		InUse:         func(ctx context.Context) bool { return mayRun(ctx, cfg.DataDir) },
		Credentials:   auth.New(credentialsOf(r)),
		AllowedRealms: r.AllowedRealms,
		CAFile:        r.CAFile,
		CertFile:      r.CertFile,
		KeyFile:       r.KeyFile,
		Insecure:      r.Insecure,
		Proxy:         proxyOf(r),
		Image:         image,
	}
	if r.HTTPProxy != nil {
		remote.ProxySetting = remote.Variable("HTTPPROXY")
	}
	switch c := r.Credentials; {
	case c.Command != "":
		remote.CredentialsSetting = remote.Variable("EXEC_COMMAND")
	case c.DockerConfig != "":
		remote.CredentialsSetting = remote.Variable("DOCKERCONFIG")
	case c.IdentityTokenFile != "":
		remote.CredentialsSetting = remote.Variable("IDENTITYTOKEN_FILE")
	case c.IdentityToken != "":
		remote.CredentialsSetting = remote.Variable("IDENTITYTOKEN")
	case c.PasswordFile != "":
		remote.CredentialsSetting = remote.Variable("USERNAME") + " and " + remote.Variable("PASSWORD_FILE")
	}
	return remote
}

// mayRun reports whether a server runs on the data directory. Where that cannot be
// found out, one may.
func mayRun(ctx context.Context, dataDir string) bool {
	err := newControlClient(controlPath(dataDir)).ping(ctx)
	return !noServer(err) && !errors.Is(err, syscall.ENOTDIR)
}

// doctorMachine is what the configuration wants of this machine.
func doctorMachine(cfg *config.Config, timeout time.Duration) machine.Machine {
	tlsConfig := cfg.Stock.HTTP.TLS
	return machine.Machine{
		Timeout:            timeout,
		DataDir:            cfg.DataDir,
		MaxSize:            cfg.MaxSize,
		MinFree:            cfg.MinFree.Of,
		Net:                cfg.Net,
		Addr:               cfg.Addr,
		TLS:                tlsConfig.Certificate != "" || cfg.ServerCertificate,
		Prefix:             cfg.Stock.HTTP.Prefix,
		AdminAddr:          cfg.AdminAddr,
		MetricsPath:        cfg.Stock.HTTP.Debug.Prometheus.Path,
		ClientCertificates: demandsCertificates(tlsConfig),
	}
}

// failure is the error for a report, nil where nothing has failed.
func failure(found report.Report) error {
	if found.Status != report.Failed {
		return nil
	}
	var failed []string
	for _, r := range found.Remotes {
		if r.Status == report.Failed {
			failed = append(failed, r.Host)
		}
	}
	here := report.Worst(found.Local) == report.Failed
	if here {
		failed = append(failed, "this machine")
	}
	err := fmt.Errorf("not in order: %s", strings.Join(failed, ", "))
	if !here && len(failed) < len(found.Remotes) {
		return partlyError{err}
	}
	return err
}
