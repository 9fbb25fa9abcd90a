package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"registry-module/config"
)

// topArgs are the flags of a top layer, with more behind them.
func topArgs(more ...string) []string {
	return append([]string{"deploy", "iotedge", "--layer", "top", "--image", "contoso.azurecr.io/registry-module:1.0"}, more...)
}

func TestDeployUsage(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.yml")
	for name, tt := range map[string]struct {
		args []string
		want []string
	}{
		"no layer":            {[]string{"deploy", "iotedge"}, []string{"--layer top, middle or bottom", "see 'registry-module deploy iotedge --help'"}},
		"another target":      {[]string{"deploy", "kubernetes"}, []string{`to "kubernetes"`}},
		"no file to check":    {[]string{"deploy", "check"}, []string{"requires at least 1 arg"}},
		"format":              {topArgs("--upstream", "a.example", "-o", "yaml"), []string{`"yaml"`}},
		"format of check":     {[]string{"deploy", "check", "-o", "yaml", "x"}, []string{`"yaml"`}},
		"arguments":           {[]string{"deploy", "iotedge", "top"}, []string{"unknown command"}},
		"all at once":         {topArgs("--module", "a", "--env", "A=1", "--edge-ca", "x", "--file", "x", "--force", "--port", "0"), []string{"--module", "--env", "--edge-ca", "--file", "--force", "--upstream URL"}},
		"upstream's options":  {topArgs("--upstream", "a.example,user=x"), []string{`option "user"`}},
		"upstream's password": {topArgs("--upstream", "a.example,password=hunter2"), []string{"no password on the command line"}},
		"upstream's default":  {topArgs("--upstream", "a.example,default=maybe"), []string{`option "default"`}},
		"module twice":        {topArgs("--upstream", "a.example", "--module", "a=b:1", "--module", "a=b:2"), []string{"given twice"}},
		"size":                {topArgs("--upstream", "a.example", "--max-size", "lots"), []string{`--max-size "lots" `}},
		"setting twice":       {topArgs("--upstream", "a.example", "--env", "REGISTRY_CACHE_MAXSIZE=1GiB", "--max-size", "2GiB"), []string{"write only one of them"}},
		"no names":            {[]string{"deploy", "iotedge", "--layer", "middle", "--output", "x"}, []string{"--hostname is missing", "--parent-hostname is missing"}},
		"file and directory":  {topArgs("--upstream", "a.example", "--hostname", "a", "--file", "README.md", "--output", "x"), []string{"write only one of them"}},
		"file of layered":     {topArgs("--upstream", "a.example", "--layered", "--file", "deployment.json"), []string{"none of layered.json"}},
		"no script":           {topArgs("--upstream", "a.example", "--hostname", "a", "--edge-ca", "auto", "--file", "certificates.sh"), []string{"there is none"}},
		"secret in a setting": {topArgs("--upstream", "a.example", "--env", "hunter2"), []string{"write REGISTRY_...=VALUE"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := command(t, tt.args...)
			if _, ok := errors.AsType[usageError](err); !ok {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
	_, _, err := command(t, topArgs("--config", absent)...)
	if _, ok := errors.AsType[usageError](err); ok || err == nil || !strings.Contains(err.Error(), absent) {
		t.Errorf("absent configuration: %v", err)
	}
	if out, _, err := command(t, "deploy"); err != nil || !strings.Contains(out, "iotedge") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDeployOutput writes files, and does not write over others.
func TestDeployOutput(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "top")
	args := topArgs("--hostname", "top.example", "--upstream", "https://contoso.azurecr.io,username=u", "--output", dir)
	out, told, err := command(t, args...)
	if err != nil || strings.Count(out, "\n") != 4 || !strings.HasPrefix(out, dir+"/deployment.json\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(told, "fill in ${REGISTRY_PROXY_PASSWORD} in deployment.json: the password of u at contoso.azurecr.io\n") ||
		!strings.Contains(told, "note: mcr.microsoft.com is none of the default remotes") {
		t.Errorf("told %s", told)
	}
	for name, mode := range map[string]os.FileMode{"deployment.json": 0o644, "certificates.sh": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if _, _, err := command(t, args...); err != nil {
		t.Errorf("the same again: %v", err)
	}
	config, readme := filepath.Join(dir, "config.toml"), filepath.Join(dir, "README.md")
	for _, path := range []string{config, readme} {
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = command(t, append(args, "--port", "443")...)
	if err == nil || !strings.Contains(err.Error(), "--force") || strings.Count(err.Error(), "is there already") != 3 {
		t.Errorf("others: %v", err)
	}
	for _, path := range []string{config, readme} {
		if have, err := os.ReadFile(path); err != nil || string(have) != "mine" {
			t.Errorf("%s was overwritten: %v", path, err)
		}
	}
	if manifest, err := os.ReadFile(filepath.Join(dir, "deployment.json")); err != nil || strings.Contains(string(manifest), `"HostPort\":\"443`) && !strings.Contains(string(manifest), `8000`) {
		t.Errorf("a part was written: %v", err)
	}
	t.Setenv("REGISTRY_PROXY_PASSWORD", "hunter2")
	if _, told, err = command(t, append(args, "--force", "--with-secrets")...); err != nil || strings.Contains(told, "PASSWORD") {
		t.Errorf("%v\n%s", err, told)
	}
	manifest := filepath.Join(dir, "deployment.json")
	content, err := os.ReadFile(manifest)
	info, statErr := os.Stat(manifest)
	if err != nil || statErr != nil || strings.Count(string(content), "hunter2") != 2 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, mode %v:\n%s", err, statErr, info.Mode(), content)
	}
}

func TestDeployPrints(t *testing.T) {
	args := topArgs("--hostname", "top.example", "--upstream", "mcr.microsoft.com")
	for file, want := range map[string]string{"deployment.json": `{`, "config.toml": "# /etc/aziot/config.toml", "certificates.sh": "#!/bin/sh", "README.md": "# top.example"} {
		if out, _, err := command(t, append(args, "--file", file)...); err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
	out, told, err := command(t, append(args, "-o", "json")...)
	var d deployed
	if err != nil || told != "" || json.Unmarshal([]byte(out), &d) != nil || len(d.Files) != 4 || d.Files[0].Content == "" || len(d.Placeholders) != 1 || len(d.Images) != 4 {
		t.Errorf("%v, told %s\n%s", err, told, out)
	}
}

// allSettings is a configuration in all the forms that values can have.
const allSettings = `
version: 0.1
log: {level: warn, formatter: json, fields: {site: "a: b"}}
http: {addr: ":9000", debug: {addr: ":5001"}, secret: hunter2, draintimeout: 10s, headers: {X-A: [hunter2]}, tls: {certificate: /absent/a, key: /absent/b}}
proxy:
  remoteurl: https://mcr.microsoft.com
  tagttl: 1h
  allow: ["team/**", "library/*"]
  tagrules: ["semver=immutable", "{a,b}/**:latest=always"]
  deny: "x/* y"
  offlineschedule: "Mon-Fri 08:00-18:00, Sat 22:00-06:00"
  remotes:
  - {remoteurl: "https://contoso.azurecr.io", alias: ours, username: "a # b", password: hunter2, default: true, connections: 2, ttl: "0"}
  - {remoteurl: quay.io, username: "~u", passwordfile: /absent/d/c, bandwidth: 20MiB/s}
cache: {maxsize: 1GiB, minfree: 10%, pins: ["team/app:1.*", "*/base"], prefetch: true}
storage: {filesystem: {rootdirectory: /data}}
auth: {htpasswd: {realm: "a # b", path: /absent/d/htpasswd}}
notifications: {endpoints: [{name: a, url: "https://u:hunter2@a.example"}]}
catalog: {maxentries: 7}
`

// TestDeployConfig carries a configuration over and loads what comes out of it: it is the
// same, but for what is left out.
func TestDeployConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(allSettings), 0o600); err != nil {
		t.Fatal(err)
	}
	out, told, err := command(t, topArgs("--config", path, "--hostname", "top.example")...)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out+told, "hunter2") {
		t.Errorf("a secret is in\n%s%s", out, told)
	}
	for _, want := range []string{
		"note: http.addr is left out", "note: http.headers is left out", "note: http.tls is left out", "note: notifications is left out",
		"note: storage.filesystem.rootdirectory is left out", "note: proxy.remotes.1.passwordfile: the file has to be on the device",
		"fill in ${REGISTRY_PROXY_PASSWORD_2} in deployment.json: the password of a # b at contoso.azurecr.io", "fill in ${REGISTRY_HTTP_SECRET}",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("%q is not in\n%s", want, told)
		}
	}
	for _, needless := range []string{"http.debug", "http.tls.key"} {
		if strings.Contains(told, needless) {
			t.Errorf("%s is told:\n%s", needless, told)
		}
	}
	if !strings.Contains(out, `\"/absent/d:/absent/d:ro\"`) {
		t.Errorf("the files are not mounted:\n%s", out)
	}
	env, _ := readModules(t, []byte(out))
	for name, want := range map[string]string{"REGISTRY_PROXY_ALLOW": "team/** library/*", "REGISTRY_PROXY_PASSWORD_FILE_3": "/absent/d/c"} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	// What the settings mean, with files that are there.
	there := strings.NewReplacer("/absent/d", dir, "headers: {X-A: [hunter2]}, tls: {certificate: /absent/a, key: /absent/b}", "", "rootdirectory: /data", "",
		`addr: ":9000"`, `addr: ":8000"`, "formatter: json", "formatter: text")
	for _, name := range []string{"c", "htpasswd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("u:x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := there.Replace(allSettings)
	i, j := strings.Index(text, "notifications:"), strings.Index(text, "catalog:")
	if err := os.WriteFile(path, []byte(text[:i]+text[j:]), 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range env {
		switch value = there.Replace(value); {
		case strings.HasPrefix(value, "${"):
			value = "hunter2"
		case name == "REGISTRY_LOG_FORMATTER":
			value = "text"
		}
		t.Setenv(name, value)
	}
	empty := filepath.Join(dir, "empty.yml")
	if err := os.WriteFile(empty, []byte("version: 0.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(empty)
	if err != nil {
		t.Fatal(err)
	}
	got.Source, want.Source = "", ""
	got.Files, want.Files = nil, nil
	if len(got.Warnings) > 0 || len(want.Warnings) > 0 {
		t.Errorf("warnings %q and %q", got.Warnings, want.Warnings)
	}
	g, w := reflect.ValueOf(*got), reflect.ValueOf(*want)
	for i := range g.NumField() {
		if !g.Type().Field(i).IsExported() {
			continue // how it was written
		}
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s is\n%+v, want\n%+v", g.Type().Field(i).Name, show(g.Field(i)), show(w.Field(i)))
		}
	}
}

func show(v reflect.Value) string { return fmt.Sprintf("%+v", v.Interface()) }

// TestDeployConfigWrong has mistakes in the configuration.
func TestDeployConfigWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte("version: 0.1\nproxy: {remoteurl: 'ftp://a', tagttl: soon, passwordfile: /absent/a, username: u}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := command(t, topArgs("--config", path)...)
	if err == nil || !strings.Contains(err.Error(), "2 errors") || !strings.Contains(err.Error(), "REGISTRY_PROXY_TAGTTL") {
		t.Errorf("got %v", err)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		t.Error("it is told as a wrong command line")
	}
}

// TestDeployConfigBelow uses the configuration of the top for a cache below it.
func TestDeployConfigBelow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte("version: 0.1\nproxy: {remoteurl: mcr.microsoft.com, tagttl: 1h, remotes: [{remoteurl: 'r.example:5000', alias: ours}]}\ncache: {maxsize: 1GiB}"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := command(t, "deploy", "iotedge", "--layer", "middle", "--cache", "--image", "r.example:5000/registry-module:1", "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	env, images := readModules(t, []byte(out))
	for name, want := range map[string]string{
		"REGISTRY_CACHE_MAXSIZE": "1GiB", "REGISTRY_PROXY_TAGTTL": "", "REGISTRY_PROXY_REMOTEURL": "https://$upstream:8000", "REGISTRY_PROXY_REMOTEURL_2": "",
		"REGISTRY_PROXY_NAMESPACES": "mcr.microsoft.com r.example:5000",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	if !strings.Contains(strings.Join(images, " "), "$upstream:8000/ours/registry-module:1") {
		t.Errorf("images %q", images)
	}
}
