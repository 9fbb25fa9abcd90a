package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/upstream/breaker"
	"registry-module/upstream/upstreamtest"
)

// someStatuses are of a remote in order and of one that is away.
func someStatuses() []breaker.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []breaker.Status{
		{Remote: "one.test", State: breaker.Online, Since: at},
		{Remote: "two.test", State: breaker.Offline, Since: at, Failures: 3, Reason: "connection\nrefused", NextTry: at.Add(time.Minute)},
	}
}

const someStatusesJSON = `[{"remote":"one.test","state":"online","since":"2026-01-02T03:04:05Z","failures":0},` +
	`{"remote":"two.test","state":"offline","since":"2026-01-02T03:04:05Z","failures":3,"reason":"connection\nrefused","next_try":"2026-01-02T03:05:05Z"}]`

func TestHealth(t *testing.T) {
	none := func() []breaker.Status { return new(program).statuses() }
	const asText = "ok\none.test: online since 2026-01-02T03:04:05Z\n" +
		"two.test: offline since 2026-01-02T03:04:05Z (connection refused), next try 2026-01-02T03:05:05Z\n"
	const asJSON = `{"status":"ok","remotes":` + someStatusesJSON + "}\n"
	tests := map[string]struct {
		statuses func() []breaker.Status
		accept   string
		want     string
	}{
		"no remotes":           {none, "", "ok\n"},
		"no remotes, as JSON":  {none, "application/json", `{"status":"ok","remotes":[]}` + "\n"},
		"text":                 {someStatuses, "", asText},
		"anything":             {someStatuses, "*/*", asText},
		"JSON":                 {someStatuses, "application/json", asJSON},
		"JSON among others":    {someStatuses, "text/html, application/json;q=0.9", asJSON},
		"anything but JSON":    {someStatuses, "application/json;q=0, */*", asText},
		"what cannot be read":  {someStatuses, ";,/", asText},
		"something else again": {someStatuses, "application/jsonp", asText},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequest(http.MethodGet, "/healthz", nil)
			req.Header.Set("Accept", tt.accept)
			w := httptest.NewRecorder()
			healthHandler(tt.statuses).ServeHTTP(w, req)
			wantType := "text/plain; charset=utf-8"
			if strings.HasPrefix(tt.want, "{") {
				wantType = "application/json"
			}
			if w.Code != http.StatusOK || w.Body.String() != tt.want || w.Header().Get("Content-Type") != wantType {
				t.Errorf("%d %v\ngot  %s\nwant %s", w.Code, w.Header(), w.Body, tt.want)
			}
		})
	}
}

// TestWiredHealth has the remotes of a configuration, one of which is away.
func TestWiredHealth(t *testing.T) {
	up, away := upstreamtest.New(t), upstreamtest.New(t)
	away.Offline()
	cfg := testConfig(t, t.TempDir(), up.Host())
	second := cfg.Remotes[0]
	second.URL = &url.URL{Scheme: "http", Host: away.Host()}
	cfg.Remotes = append(cfg.Remotes, second)
	log := logrus.New()
	log.SetOutput(t.Output())
	p, err := wire(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, b := range p.breakers() {
		_, _ = b.Resolve(t.Context(), "a/b", "v1", "") // what is said of it is of interest
	}
	got := p.statuses()
	if len(got) != 2 || got[0].Remote != up.Host() || got[0].State != breaker.Online ||
		got[1].Remote != away.Host() || got[1].State != breaker.Offline || got[1].Reason == "" {
		t.Errorf("%+v", got)
	}
	families, err := p.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range families {
		fmt.Fprintln(&all, f)
	}
	for _, want := range []string{"registry_module_remote_state", "registry_module_remote_failures_total", "registry_module_remote_state_changes_total"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("there is no %s", want)
		}
	}
}

// control serves h at the control socket of a data directory.
func control(t *testing.T, dataDir string, h http.Handler) {
	t.Helper()
	ln, err := listenControl(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close() // what it answers is of no interest any more
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

func TestRemotesOfServer(t *testing.T) {
	tests := map[string]struct {
		handler http.Handler
		remotes int
		wrong   string
	}{
		"a list":          {remotesHandler(someStatuses), 2, ""},
		"an older server": {http.NotFoundHandler(), 0, ""},
		"a failure": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no", http.StatusInternalServerError)
		}), 0, "the running server answers 500"},
		"something else": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("{}"))
		}), 0, "reading the answer of the running server"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			control(t, dir, tt.handler)
			got, err := newControlClient(controlPath(dir)).Remotes(t.Context())
			if len(got) != tt.remotes || (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Fatalf("%v, %v", got, err)
			}
			if text, err := json.Marshal(got); tt.remotes > 0 && (err != nil || string(text) != someStatusesJSON) {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
	if _, err := newControlClient(controlPath(t.TempDir())).Remotes(t.Context()); !noServer(err) {
		t.Errorf("without a server: %v", err)
	}
}

// TestDoctorAsksServer has a server that runs, and knows of the remote.
func TestDoctorAsksServer(t *testing.T) {
	tests := map[string]struct {
		state  breaker.State
		status string
	}{
		"online":       {breaker.Online, "ok"},
		"offline":      {breaker.Offline, "warning"},
		"failing":      {breaker.Failing, "warning"},
		"limited":      {breaker.Limited, "warning"},
		"offline mode": {breaker.Held, "skipped"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			reg := configureDoctor(t)
			dir := t.TempDir()
			t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
			mux := http.NewServeMux()
			mux.Handle("GET /remotes", remotesHandler(func() []breaker.Status {
				all := someStatuses()
				all[1].Remote, all[1].State = reg.Host(), tt.state
				return all
			}))
			control(t, dir, mux)
			report, status := runJSON(t)
			checks := report.Remotes[0].Checks
			got := checks[len(checks)-1]
			want := fmt.Sprintf("the running server has it as %s since 2026-01-02T03:04:05Z (connection refused), next try 2026-01-02T03:05:05Z", tt.state)
			if status != 0 || got.Step != "server" || got.Status != tt.status || got.Text != want || (got.Advice != "") != (tt.status == "warning") {
				t.Errorf("status %d, got  %+v\nwant %s", status, got, want)
			}
		})
	}
}

// Without a server, and with one that does not know of the remote, nothing is said.
func TestDoctorWithoutServer(t *testing.T) {
	configureDoctor(t)
	dir := t.TempDir()
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir)
	for _, server := range []http.Handler{nil, http.NotFoundHandler(), remotesHandler(someStatuses)} {
		if server != nil {
			control(t, dir, server)
		}
		report, _ := runJSON(t)
		for _, c := range report.Remotes[0].Checks {
			if c.Step == "server" {
				t.Errorf("%+v", c)
			}
		}
	}
}
