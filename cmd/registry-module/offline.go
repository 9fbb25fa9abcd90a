package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"registry-module/cache/disk"
	"registry-module/config"
)

func offlineCommand() *cobra.Command {
	var configFile, output string
	cmd := &cobra.Command{
		Use:   "offline [on|off|auto]",
		Short: "Show or switch offline mode: no remote registry is contacted",
		Long: `Show whether remote registries are contacted, why, and until when. With on or off,
switch offline mode whatever is configured (REGISTRY_PROXY_OFFLINE,
REGISTRY_PROXY_OFFLINESCHEDULE); that outlives restarts, until auto goes back to
what is configured.

When "on" returns, all connections to remotes are closed, and no packet leaves
for one. What is stored is served; what is not is answered with 503. Downloads that
were cut off go on when they are asked for again.`,
		Example: `  registry-module offline
  registry-module offline -o json
  registry-module offline on
  registry-module offline auto`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{modeOn, modeOff, modeAuto},
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" {
				return usageError{fmt.Errorf("there is no output format %q: write json, or leave it out for text", output)}
			}
			cfg, err := config.Load(configFile)
			if err != nil {
				return err
			}
			s, err := offlineOf(cmd.Context(), cfg, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			ask := s.Offline
			if len(args) == 1 {
				ask = func(ctx context.Context) (offlineStatus, error) { return s.SetOffline(ctx, args[0]) }
			}
			status, err := ask(cmd.Context())
			if err != nil {
				return err
			}
			return printOffline(cmd.OutOrStdout(), output, status)
		},
	}
	cmd.Flags().StringVarP(&configFile, "config", "c", "", "the configuration file of the server")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or text where it is left out")
	return cmd
}

func printOffline(out io.Writer, output string, s offlineStatus) error {
	if output == "json" {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	offline, until := "no", "it is changed"
	if s.Offline {
		offline = "yes"
	}
	if !s.Until.IsZero() {
		until = s.Until.Format(time.RFC3339)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintf(w, "OFFLINE\tMODE\tUNTIL\tREASON\n%s\t%s\t%s\t%s\n", offline, s.Mode, until, s.Reason); err != nil {
		return err
	}
	return w.Flush()
}

// offlineSwitch is offline mode, to be looked at and switched.
type offlineSwitch interface {
	Offline(ctx context.Context) (offlineStatus, error)
	SetOffline(ctx context.Context, mode string) (offlineStatus, error)
}

// offlineOf returns that of the server that runs on the data directory, or what would
// be if one did. Remarks go to notes.
func offlineOf(ctx context.Context, cfg *config.Config, notes io.Writer) (offlineSwitch, error) {
	remote := newControlClient(controlPath(cfg.DataDir))
	err := remote.ping(ctx)
	switch {
	case err == nil:
		return remote, nil
	case !noServer(err) && !errors.Is(err, syscall.EINVAL):
		return nil, err
	}
	// As for bindings.
	if _, err := statDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	return &futureOffline{cfg: cfg, socket: remote.path, notes: notes}, nil
}

// futureOffline is offline mode as a server will have it, by our configuration.
type futureOffline struct {
	cfg    *config.Config
	socket string
	notes  io.Writer
}

// Offline implements offlineSwitch.
func (f *futureOffline) Offline(context.Context) (offlineStatus, error) {
	o, err := readOverride(overridePath(f.cfg.DataDir))
	if err != nil {
		_, _ = fmt.Fprintln(f.notes, err) // the status says what counts
	}
	_, _ = fmt.Fprintf(f.notes, "no running server answers at %s: this is for when one is started with this configuration\n", f.socket)
	return newOfflineRules(f.cfg).status(o, time.Now()), nil
}

// SetOffline implements offlineSwitch.
func (f *futureOffline) SetOffline(_ context.Context, mode string) (offlineStatus, error) {
	o, err := newOverride(mode, time.Now())
	if err != nil {
		return offlineStatus{}, err
	}
	if err := ownedBy(os.Geteuid(), f.cfg.DataDir); err != nil {
		return offlineStatus{}, err
	}
	// A server without a socket would not notice.
	store, err := disk.Open(f.cfg.DataDir, disk.Options{})
	if err != nil {
		return offlineStatus{}, fmt.Errorf("no running server answers at %s, and without one: %w", f.socket, err)
	}
	err = errors.Join(writeOverride(overridePath(f.cfg.DataDir), o), store.Close())
	return newOfflineRules(f.cfg).status(o, time.Now()), err
}

// handleOffline answers commands about offline mode.
func handleOffline(mux *http.ServeMux, s offlineSwitch) {
	answer := func(w http.ResponseWriter, status offlineStatus, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, status)
	}
	mux.HandleFunc("GET /offline", func(w http.ResponseWriter, r *http.Request) {
		status, err := s.Offline(r.Context())
		answer(w, status, err)
	})
	mux.HandleFunc("PUT /offline", func(w http.ResponseWriter, r *http.Request) {
		mode := r.URL.Query().Get("mode")
		if _, err := newOverride(mode, time.Time{}); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		status, err := s.SetOffline(r.Context(), mode)
		answer(w, status, err)
	})
}

// Offline implements offlineSwitch.
func (c *controlClient) Offline(ctx context.Context) (offlineStatus, error) {
	return c.offline(ctx, http.MethodGet, "/offline")
}

// SetOffline implements offlineSwitch.
func (c *controlClient) SetOffline(ctx context.Context, mode string) (offlineStatus, error) {
	return c.offline(ctx, http.MethodPut, "/offline?mode="+url.QueryEscape(mode))
}

func (c *controlClient) offline(ctx context.Context, method, target string) (s offlineStatus, _ error) {
	resp, err := c.do(ctx, method, target)
	if err != nil {
		return s, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return s, unexpected(resp)
	}
	err = json.NewDecoder(resp.Body).Decode(&s)
	return s, err
}
