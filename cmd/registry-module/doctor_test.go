package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/config"
	"registry-module/doctor"
	"registry-module/doctor/report"
	"registry-module/upstream/upstreamtest"
)

// doctorReport is the form of -o json, as its readers know it.
type doctorReport struct {
	Status  string
	Local   []doctorCheck
	Remotes []struct {
		Number              int
		Host, Alias, Status string
		Image               string
		Checks              []doctorCheck
	}
}

type doctorCheck struct {
	Step, Status, Text, Advice string
	TookMs                     float64
}

// configureDoctor sets up an environment in which all is well, with a remote.
func configureDoctor(t *testing.T) *upstreamtest.Registry {
	t.Helper()
	reg := upstreamtest.New(t)
	reg.AddRandomImage("a/b", "v1", 1, 10)
	t.Setenv("REGISTRY_PROXY_REMOTEURL", reg.URL())
	t.Setenv("REGISTRY_PROXY_ALIAS", "near")
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", t.TempDir())
	addr := freeAddr(t)
	t.Setenv("REGISTRY_HTTP_ADDR", addr)
	t.Setenv("REGISTRY_HTTP_DEBUG_ADDR", freeAddr(t, addr))
	t.Setenv("REGISTRY_CACHE_MINFREE", "1MiB")
	t.Setenv("LC_ALL", "C.UTF-8")
	return reg
}

func runJSON(t *testing.T, args ...string) (doctorReport, int) {
	t.Helper()
	out, _, err := command(t, append([]string{"doctor", "-o", "json"}, args...)...)
	var report doctorReport
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	if parseErr := decoder.Decode(&report); parseErr != nil || decoder.More() {
		t.Fatalf("%v in %s", parseErr, out)
	}
	return report, statusOf(err)
}

// statusOf is the status that main exits with after err.
func statusOf(err error) int {
	_, usage := errors.AsType[usageError](err)
	_, partly := errors.AsType[partlyError](err)
	switch {
	case err == nil:
		return 0
	case usage:
		return exitUsage
	case partly:
		return exitPartly
	default:
		return exitFailed
	}
}

func TestDoctor(t *testing.T) {
	reg := configureDoctor(t)
	for _, name := range []string{"", "near", "1", reg.Host(), reg.URL(), "127.0.0.1"} {
		args := []string{"--image", "a/b:v1"}
		if name != "" {
			args = append(args, name)
		}
		report, status := runJSON(t, args...)
		if status != 0 || report.Status == "failed" || len(report.Remotes) != 1 {
			t.Fatalf("%s: status %d: %+v", name, status, report)
		}
		r := report.Remotes[0]
		if r.Number != 1 || r.Host != reg.Host() || r.Alias != "near" || r.Image != "a/b:v1" || r.Status != "ok" || len(r.Checks) == 0 {
			t.Errorf("%+v", r)
		}
		if c := r.Checks[len(r.Checks)-2]; c.Step != "manifest" || c.Status != "ok" || c.TookMs <= 0 {
			t.Errorf("%+v", c)
		}
		if report.Local[0].Step != "configuration" || report.Local[0].Status != "ok" {
			t.Errorf("%+v", report.Local)
		}
	}

	out, _, err := command(t, "doctor")
	if err != nil || !strings.Contains(out, "Remote 1: "+reg.Host()+" (near)\n  ✓ settings") ||
		!strings.Contains(out, "  - manifest     not asked for: say for which image (--image NAME:TAG)\n") || !strings.Contains(out, "This machine\n  ✓ configuration") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Setenv("LC_ALL", "C")
	for _, args := range [][]string{{"doctor"}, {"doctor", "--ascii"}} {
		out, _, err = command(t, args...)
		if err != nil || !strings.Contains(out, "  + settings") || strings.ContainsFunc(out, func(c rune) bool { return c > '~' }) {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// What has failed is said, and is the status.
func TestDoctorFails(t *testing.T) {
	reg := configureDoctor(t)
	reg.Offline()
	report, status := runJSON(t)
	if status != exitFailed || report.Status != "failed" || report.Remotes[0].Status != "failed" {
		t.Errorf("status %d: %+v", status, report)
	}
	reg.Online()
	t.Setenv("REGISTRY_HTTP_ADDR", reg.Host())
	report, status = runJSON(t)
	if status != exitFailed || report.Remotes[0].Status != "ok" {
		t.Errorf("status %d: %+v", status, report)
	}
	_, _, err := command(t, "doctor")
	if err == nil || err.Error() != "not in order: this machine" {
		t.Errorf("error %v", err)
	}
}

// Of two remotes, one is in order.
func TestDoctorFailsPartly(t *testing.T) {
	configureDoctor(t)
	away := upstreamtest.New(t)
	away.Offline()
	t.Setenv("REGISTRY_PROXY_REMOTEURL_2", away.URL())
	report, status := runJSON(t)
	if status != exitPartly || len(report.Remotes) != 2 || report.Remotes[0].Status != "ok" || report.Remotes[1].Status != "failed" {
		t.Errorf("status %d: %+v", status, report)
	}
	if report, status = runJSON(t, "2"); status != exitFailed || len(report.Remotes) != 1 {
		t.Errorf("status %d: %+v", status, report)
	}
	if report, status = runJSON(t, "near"); status != 0 || len(report.Remotes) != 1 {
		t.Errorf("status %d: %+v", status, report)
	}
}

// All that is wrong with a configuration is said, and nothing else is looked at.
func TestDoctorOfBadConfiguration(t *testing.T) {
	configureDoctor(t)
	t.Setenv("REGISTRY_PROXY_TAGTTL", "soon")
	t.Setenv("REGISTRY_CACHE_MAXSIZE", "lots")
	report, status := runJSON(t)
	if status != exitFailed || len(report.Local) != 2 || len(report.Remotes) != 0 {
		t.Fatalf("status %d: %+v", status, report)
	}
	for i, want := range []string{"REGISTRY_CACHE_MAXSIZE", "REGISTRY_PROXY_TAGTTL"} {
		if c := report.Local[i]; c.Step != "configuration" || c.Status != "failed" || !strings.Contains(c.Text, want) || c.Advice == "" {
			t.Errorf("%+v", c)
		}
	}
}

func TestDoctorOfConfigurationWithWarnings(t *testing.T) {
	configureDoctor(t)
	t.Setenv("REGISTRY_PROXY_TAGTLT", "5m")
	report, status := runJSON(t)
	if status != 0 || report.Status != "warning" || report.Local[1].Status != "warning" || !strings.Contains(report.Local[1].Text, "REGISTRY_PROXY_TAGTLT") {
		t.Errorf("status %d: %+v", status, report)
	}
}

func TestDoctorWithoutRemote(t *testing.T) {
	configureDoctor(t)
	if err := os.Unsetenv("REGISTRY_PROXY_REMOTEURL"); err != nil { // as configureDoctor has found it, afterwards
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte("version: 0.1\nstorage: filesystem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, status := runJSON(t, "--config", path)
	if status != 0 || len(report.Remotes) != 0 || report.Local[0].Status != "warning" || !strings.Contains(report.Local[0].Text, path) {
		t.Errorf("status %d: %+v", status, report)
	}
}

func TestDoctorUsage(t *testing.T) {
	configureDoctor(t)
	for want, args := range map[string][]string{
		"configured are 1 (127.0.0.1": {"doctor", "quay.io"},
		"--image":                     {"doctor", "--image", "A B"},
		"xml":                         {"doctor", "-o", "xml"},
		"no time at all":              {"doctor", "--timeout", "0s"},
		"accepts at most 1":           {"doctor", "a", "b"},
		"--no-such-flag":              {"doctor", "--no-such-flag"},
	} {
		_, _, err := command(t, args...)
		if err == nil || statusOf(err) != exitUsage || !strings.Contains(err.Error(), strings.TrimLeft(want, "-")) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestDoctorIsInterrupted(t *testing.T) {
	configureDoctor(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	err := runDoctor(ctx, &out, doctor.Doctor{}, doctorOptions{})
	if !errors.Is(err, context.Canceled) || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func testRemotes() []config.Remote {
	return []config.Remote{
		{Number: 1, URL: &url.URL{Scheme: "https", Host: "registry-1.docker.io"}, Alias: "2"},
		{Number: 2, URL: &url.URL{Scheme: "https", Host: "quay.io"}},
		{Number: 3, URL: &url.URL{Scheme: "https", Host: "registry.test:5000"}, Alias: "own"},
	}
}

func TestChooseRemotes(t *testing.T) {
	for name, want := range map[string]int{
		"docker.io": 1, "registry-1.docker.io": 1, "1": 1, "2": 1, "quay.io": 2, "3": 3, "own": 3, "registry.test": 3, "registry.test:5000": 3,
	} {
		got, err := chooseRemotes(testRemotes(), name)
		if err != nil || len(got) != 1 || got[0].Number != want {
			t.Errorf("%s: %v, %v, want %d", name, got, err, want)
		}
	}
	if got, err := chooseRemotes(testRemotes(), ""); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	for _, name := range []string{"4", "ghcr.io", "registry.test:80"} {
		if got, err := chooseRemotes(testRemotes(), name); err == nil || !strings.Contains(err.Error(), "3 (registry.test:5000, own)") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := chooseRemotes(nil, "x"); err == nil || !strings.Contains(err.Error(), "none is configured") {
		t.Errorf("error %v", err)
	}
	if err := checkImage(testRemotes(), "a/b"); err == nil || !strings.Contains(err.Error(), "there are 3") {
		t.Errorf("error %v", err)
	}
}

func TestDoctorExitStatus(t *testing.T) {
	good, bad := report.Finding{Status: report.OK}, report.Finding{Status: report.Failed}
	warned := report.Finding{Status: report.Warning}
	for _, test := range []struct {
		name    string
		local   report.Finding
		remotes []report.Finding
		want    int // 0 is no error
		text    string
	}{
		{"good", good, []report.Finding{good, warned}, 0, ""},
		{"warned", warned, nil, 0, ""},
		{"one of two", good, []report.Finding{good, bad}, exitPartly, "not in order: b.test"},
		{"one of one", good, []report.Finding{bad}, exitFailed, "not in order: a.test"},
		{"all", good, []report.Finding{bad, bad}, exitFailed, "not in order: a.test, b.test"},
		{"this machine", bad, []report.Finding{good, good}, exitFailed, "not in order: this machine"},
		{"one, and this machine", bad, []report.Finding{good, good, bad}, exitFailed, "not in order: c.test, this machine"},
	} {
		var remotes []report.RemoteReport
		for i, f := range test.remotes {
			remotes = append(remotes, report.RemoteReport{Host: string(rune('a'+i)) + ".test", Checks: []report.Finding{f}})
		}
		err := failure(report.NewReport([]report.Finding{test.local}, remotes))
		if (err == nil) != (test.want == 0) || err != nil && (statusOf(err) != test.want || err.Error() != test.text) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// What is configured is what is looked at.
func TestDoctorRemote(t *testing.T) {
	r := config.Remote{
		Number: 3, URL: &url.URL{Scheme: "https", Host: "registry.test"}, CAFile: "ca", CertFile: "cert", KeyFile: "key", Insecure: true,
		AllowedRealms: []string{"auth.test"}, Credentials: config.Credentials{Username: "me", Password: "secret"},
	}
	got := doctorRemote(&config.Config{Offline: true, DataDir: t.TempDir()}, r, "a/b")
	if got.Number != 3 || got.URL != r.URL || got.CAFile != "ca" || got.CertFile != "cert" || got.KeyFile != "key" || !got.Insecure ||
		len(got.AllowedRealms) != 1 || !got.Offline || got.Image != "a/b" || got.Proxy != nil {
		t.Errorf("%+v", got)
	}
	if c, err := got.Credentials.Authorization(); err != nil || c.Username != "me" || c.Password != "secret" {
		t.Errorf("%v", err)
	}
	req := &http.Request{URL: r.URL}
	r.HTTPProxy = &url.URL{Scheme: "http", Host: "proxy.test"}
	got = doctorRemote(&config.Config{}, r, "")
	if p, err := got.Proxy(req); err != nil || p.Host != "proxy.test" || got.ProxySetting != "REGISTRY_PROXY_HTTPPROXY_3" {
		t.Errorf("%v, %v, %s", p, err, got.ProxySetting)
	}
	r.NoHTTPProxy = true
	if p, err := doctorRemote(&config.Config{}, r, "").Proxy(req); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
}

// Advice names the variables that are set.
func TestDoctorCredentialsSetting(t *testing.T) {
	for want, c := range map[string]config.Credentials{
		"":                                    {Username: "me", Password: "x"},
		"REGISTRY_PROXY_EXEC_COMMAND_2":       {Command: "x"},
		"REGISTRY_PROXY_DOCKERCONFIG_2":       {DockerConfig: "x"},
		"REGISTRY_PROXY_IDENTITYTOKEN_2":      {IdentityToken: "x"},
		"REGISTRY_PROXY_IDENTITYTOKEN_FILE_2": {IdentityTokenFile: "x"},
		"REGISTRY_PROXY_USERNAME_2 and REGISTRY_PROXY_PASSWORD_FILE_2": {Username: "me", PasswordFile: "x"},
	} {
		r := config.Remote{Number: 2, URL: &url.URL{Scheme: "https", Host: "registry.test"}, Credentials: c}
		if got := doctorRemote(&config.Config{}, r, "").CredentialsSetting; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// An identity token is not tried while a server runs on the data directory.
func TestDoctorLeavesIdentityTokensToServers(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, dir, "")
	remote := doctorRemote(cfg, config.Remote{URL: &url.URL{Scheme: "https", Host: "registry.test"}}, "")
	if remote.InUse(t.Context()) {
		t.Error("in use before the server runs")
	}
	stop := serving(t, cfg)
	if !remote.InUse(t.Context()) {
		t.Error("not in use while the server runs")
	}
	stop()
	if remote.InUse(t.Context()) {
		t.Error("in use after the server has ended")
	}
	cfg.DataDir = filepath.Join(dir, "registry-module.json") // a file, if it is anything
	if remote.InUse(t.Context()) {
		t.Error("in use where there is no directory")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg.DataDir = dir
	if !remote.InUse(ctx) {
		t.Error("what is not known is taken for not in use")
	}
}

// A server that wants certificates of its clients, or has a prefix, is known as one.
func TestDoctorMachine(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), "")
	cfg.Stock.HTTP.Prefix = "/mirror/"
	for mode, want := range map[configuration.ClientAuth]bool{
		"": true, configuration.ClientAuthRequireAndVerifyClientCert: true, configuration.ClientAuthRequireAnyClientCert: true,
		configuration.ClientAuthVerifyClientCertIfGiven: false, configuration.ClientAuthRequestClientCert: false,
	} {
		cfg.Stock.HTTP.TLS.ClientAuth, cfg.Stock.HTTP.TLS.ClientCAs = mode, []string{"ca.pem"}
		if got := doctorMachine(cfg, 0); got.ClientCertificates != want || got.Prefix != "/mirror/" {
			t.Errorf("%q: %+v", mode, got)
		}
	}
	cfg.Stock.HTTP.TLS.ClientCAs = nil
	if doctorMachine(cfg, 0).ClientCertificates {
		t.Error("certificates without authorities")
	}
}

func TestIsUTF8(t *testing.T) {
	for _, test := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false},
		{map[string]string{"LANG": "de_DE.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.utf8"}, true},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, true},
		{map[string]string{"LC_CTYPE": "POSIX", "LANG": "C.UTF-8"}, false},
	} {
		if got := isUTF8(func(name string) string { return test.env[name] }); got != test.want {
			t.Errorf("%v: %v", test.env, got)
		}
	}
}

// A running program is recognised.
func TestDoctorOfRunningProgram(t *testing.T) {
	for _, prefix := range []string{"", "/mirror", "/mirror/"} {
		cfg := testConfig(t, t.TempDir(), "")
		cfg.Stock.HTTP.Prefix = prefix
		stop := serving(t, cfg)
		findings := doctorMachine(cfg, time.Minute).Check(t.Context())
		for _, f := range findings {
			if f.Status == report.Failed || f.Step == "listener" && !strings.Contains(f.Text, "registry-module runs, and answers") {
				t.Errorf("%q: %+v", prefix, f)
			}
		}
		stop()
	}
}
