package auth_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
)

// script makes dir hold a shell script that is run as name, and returns its path.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// lines returns how many lines the file path has, 0 where it does not exist.
func lines(t *testing.T, path string) int {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(content), "\n")
}

func TestCommandAnswers(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		body string
		want authn.AuthConfig
		says string // part of the error; empty: none
	}{
		"password":       {`echo '{"ServerURL":"x","Username":"me","Secret":"s3cret"}'`, user("me", "s3cret"), ""},
		"identity token": {`echo '{"Username":"<token>","Secret":"s3cret"}'`, authn.AuthConfig{IdentityToken: "s3cret"}, ""},
		"server":         {`read server; echo "{\"Username\":\"$1\",\"Secret\":\"$server\"}"`, user("get", "registry.example.com:5000"), ""},
		"no credentials": {`echo credentials not found in native keychain; exit 1`, authn.AuthConfig{}, ""},
		"nothing said":   {`echo '{}'`, authn.AuthConfig{}, ""},
		"input not read": {`exec <&-; echo '{"Username":"me","Secret":"s3cret"}'`, user("me", "s3cret"), ""},

		"no user name":                      {`echo '{"Secret":"s3cret"}'`, authn.AuthConfig{}, "without a user name"},
		"no secret":                         {`echo '{"Username":"me"}'`, authn.AuthConfig{}, "without a secret"},
		"no JSON":                           {`echo s3cret`, authn.AuthConfig{}, "not JSON"},
		"nothing at all":                    {`:`, authn.AuthConfig{}, "not JSON"},
		"other JSON":                        {`echo '{"Username":"me","Secret":["s3cret"]}'`, authn.AuthConfig{}, "not JSON"},
		"failure":                           {`echo s3cret; echo s3cret >&2; exit 3`, authn.AuthConfig{}, "(exit status 3): run it by hand"},
		"known failure":                     {`echo s3cret; echo 'pass not initialized s3cret' >&2; exit 1`, authn.AuthConfig{}, "(exit status 1): it wants `pass init`"},
		"nothing to run":                    {`exit 127`, authn.AuthConfig{}, "does not exist"},
		"killed":                            {`kill -9 $$`, authn.AuthConfig{}, "(signal: killed)"},
		"endless answer":                    {`while :; do echo s3crets3crets3crets3crets3cret; done`, authn.AuthConfig{}, "more than 65536 bytes"},
		"endless warning":                   {`yes s3cret | head -c 1000000 >&2; echo '{"Username":"me","Secret":"s3cret"}'`, user("me", "s3cret"), ""},
		"a failure that was half an answer": {`echo '{"Username":"me","Secret":"s3cret"}'; exit 1`, authn.AuthConfig{}, "(exit status 1)"},
	} {
		t.Run(name, func(t *testing.T) {
			path := script(t, dir, "creds", tt.body)
			a := auth.New(auth.Options{Host: "registry.example.com:5000", Command: path})
			if tt.says == "" {
				wantConfig(t, a, tt.want)
				return
			}
			wantError(t, a, "the command for credentials (creds)", tt.says)
		})
	}
}

func TestCommandForms(t *testing.T) {
	dir := t.TempDir()
	answer := `echo "{\"Username\":\"$*\",\"Secret\":\"x\"}"`
	script(t, dir, "creds", answer)
	script(t, dir, "with space", answer)
	if err := os.WriteFile(filepath.Join(dir, "noexec"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shell := os.Getenv("PATH")
	for name, tt := range map[string]struct {
		command string
		path    string // PATH
		want    string // the arguments
		says    []string
	}{
		"path":                      {filepath.Join(dir, "creds"), shell, "get", nil},
		"program on PATH":           {"creds", dir + ":" + shell, "get", nil},
		"path with a space":         {filepath.Join(dir, "with space"), shell, "get", nil},
		"arguments":                 {filepath.Join(dir, "creds") + " --for me", shell, "--for me get", nil},
		"quotes":                    {filepath.Join(dir, "creds") + " 'a  b'", shell, "a  b get", nil},
		"several":                   {"true && " + filepath.Join(dir, "creds"), shell, "get", nil},
		"no such path":              {filepath.Join(dir, "gone"), shell, "", []string{"(gone)", "no such file"}},
		"no such program":           {"gone", shell, "", []string{"(gone)", "executable file not found"}},
		"not executable":            {filepath.Join(dir, "noexec"), shell, "", []string{"(noexec)", "permission denied"}},
		"no such program, in shell": {"TOKEN=s3cret gone", shell, "", []string{"does not exist"}},
		"arguments without a shell": {filepath.Join(dir, "creds") + " --token s3cret", dir, "", []string{"there is no shell"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", tt.path)
			a := auth.New(auth.Options{Command: tt.command})
			if tt.says == nil {
				wantConfig(t, a, user(tt.want, "x"))
				return
			}
			wantError(t, a, tt.says...)
		})
	}
}

func TestCommandLifetime(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	path := script(t, dir, "creds", `echo run >>'`+log+`'; echo '{"Username":"me","Secret":"x"}'`)
	zero, hour := time.Duration(0), time.Hour
	for name, tt := range map[string]struct {
		lifetime *time.Duration
		runs     int
	}{
		"for good":    {nil, 1},
		"each time":   {&zero, 3},
		"for an hour": {&hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			before := lines(t, log)
			a := newChanging(t, auth.Options{Command: path, CommandLifetime: tt.lifetime})
			for range 3 {
				wantConfig(t, a, user("me", "x"))
			}
			if got := lines(t, log) - before; got != tt.runs {
				t.Errorf("run %d times, want %d", got, tt.runs)
			}
			if !a.Renew(user("me", "x")) {
				t.Error("it cannot be run again")
			}
			wantConfig(t, a, user("me", "x"))
			if got := lines(t, log) - before; got != tt.runs+1 {
				t.Errorf("run %d times with one renewal, want %d", got, tt.runs+1)
			}
		})
	}
}

func TestCommandGetsNoSettings(t *testing.T) {
	for _, name := range []string{"REGISTRY_PROXY_PASSWORD", "REGISTRY_PROXY_PASSWORD_2", "REGISTRY_HTTP_SECRET", "OTEL_EXPORTER_OTLP_HEADERS", "DOCKER_AUTH_CONFIG"} {
		t.Setenv(name, "s3cret")
	}
	t.Setenv("AWS_PROFILE", "wanted")
	path := script(t, t.TempDir(), "creds",
		`echo "{\"Username\":\"$AWS_PROFILE\",\"Secret\":\"$(env | grep -c s3cret)\"}"`)
	wantConfig(t, auth.New(auth.Options{Command: path}), user("wanted", "0"))
}

// TestCommandEndsWithItsChildren proves by a pipe that nobody is left who holds it.
func TestCommandEndsWithItsChildren(t *testing.T) {
	const child = `exec 3>"$FIFO"; sleep 1000 & echo started >&3; `
	const quiet = `exec 3>"$FIFO"; sleep 1000 >/dev/null 2>&1 & `
	// It says so only when the program has ended and was waited for.
	const orphan = `exec 3>"$FIFO"; (while kill -0 $$; do sleep 0.01; done 2>/dev/null; echo started >&3; exec sleep 1000) & `
	for name, tt := range map[string]struct {
		body           string
		timeout, grace time.Duration
		leave          bool // cancel when it has started
		says           string
	}{
		"caller leaves":          {child + `wait`, time.Hour, time.Hour, true, "context canceled"},
		"deaf to signals":        {`trap '' TERM INT HUP PIPE; ` + child + `wait`, time.Hour, time.Hour, true, "context canceled"},
		"too slow":               {child + `wait`, 10 * time.Millisecond, time.Hour, false, "has not answered within 10ms"},
		"too much":               {child + `while :; do echo s3crets3cret; done`, time.Hour, time.Hour, false, "more than 65536 bytes"},
		"fails and leaves one":   {child + `exit 1`, time.Hour, time.Millisecond, false, "exit status 1"},
		"fails, a quiet one":     {quiet + `exit 1`, time.Hour, time.Hour, false, "exit status 1"},
		"answers, a quiet one":   {quiet + `echo '{"Username":"me","Secret":"x"}'`, time.Hour, time.Hour, false, ""},
		"caller leaves later":    {orphan, time.Hour, time.Hour, true, "context canceled"},
		"answers and leaves one": {child + `echo '{"Username":"me","Secret":"x"}'`, time.Hour, time.Millisecond, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fifo := filepath.Join(dir, "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("FIFO", fifo)
			path := script(t, dir, "creds", tt.body)
			// Both ends, so that the opening waits for nobody; the writing one is
			// given up as soon as the program has its own.
			keep, err := os.OpenFile(fifo, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			read, err := os.Open(fifo)
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()

			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			type outcome struct {
				config authn.AuthConfig
				err    error
			}
			done := make(chan outcome, 1)
			go func() {
				config, err := auth.RunCommand(ctx, path, "registry.example.com", tt.timeout, tt.grace)
				done <- outcome{config, err}
			}()
			from := bufio.NewReader(read)
			if tt.leave {
				if line, err := from.ReadString('\n'); err != nil || line != "started\n" {
					t.Fatalf("the program says %q, %v", line, err)
				}
				leave()
			}
			got := <-done
			keep.Close()
			if _, err := io.Copy(io.Discard, from); err != nil {
				t.Error(err)
			}
			switch {
			case tt.says == "" && (got.err != nil || got.config != user("me", "x")):
				t.Errorf("credentials are %+v, %v", got.config, got.err)
			case tt.says != "" && (got.err == nil || !strings.Contains(got.err.Error(), tt.says) || strings.Contains(got.err.Error(), "s3cret")):
				t.Errorf("error is %v, want %q", got.err, tt.says)
			}
		})
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, seed := range []string{`{"Username":"me","Secret":"s3cret"}`, `{"Username":"<token>","Secret":"x"}`, `{`, `[]`, `null`, "", `{"Secret":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		config, err := auth.ParseAnswer(out)
		if err != nil && (config != authn.AuthConfig{} || len(err.Error()) > 100) {
			t.Errorf("%q gives %+v and %v", out, config, err)
		}
		if (config.Username == "") != (config.Password == "") || config.Username != "" && config.IdentityToken != "" {
			t.Errorf("%q gives half of something: %+v", out, config)
		}
	})
}
