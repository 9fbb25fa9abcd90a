package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// headerOf returns what is sent to the first endpoint in a header, whose name is as it
// was written.
func headerOf(c *Config, name string) string {
	return strings.Join(map[string][]string(c.Stock.Notifications.Endpoints[0].Headers)[name], "|")
}

func TestSecretsInFiles(t *testing.T) {
	in := func(text string) string { return write(t, "secret", text) }
	const remote = "REGISTRY_PROXY_REMOTEURL=r.example.com"
	const endpoint = "version: 0.1\nnotifications: {endpoints: [{name: a, url: 'http://a'}]}"
	for name, tt := range map[string]struct {
		file    string
		environ []string
		get     func(*Config) string
		want    string
	}{
		"http.secret": {"", []string{"REGISTRY_HTTP_SECRET_FILE=" + in("s3cret\n")}, func(c *Config) string { return c.Stock.HTTP.Secret }, "s3cret"},
		"is no YAML": {"", []string{"REGISTRY_HTTP_SECRET_FILE=" + in(" *a: [b #c\r\n\r\n")},
			func(c *Config) string { return c.Stock.HTTP.Secret }, " *a: [b #c"},
		"in place of that in the file": {"version: 0.1\nhttp: {secret: old}", []string{"REGISTRY_HTTP_SECRET_FILE=" + in("new")},
			func(c *Config) string { return c.Stock.HTTP.Secret }, "new"},
		"no path": {"version: 0.1\nhttp: {secret: old}", []string{"REGISTRY_HTTP_SECRET_FILE="},
			func(c *Config) string { return c.Stock.HTTP.Secret }, "old"},
		"header": {endpoint, []string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_HEADERS_AUTHORIZATION_FILE=" + in("Bearer abc\n")},
			func(c *Config) string { return headerOf(c, "authorization") }, "Bearer abc"},
		"header in place of one": {strings.Replace(endpoint, "name: a", "name: a, headers: {Authorization: [x, y]}", 1),
			[]string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_HEADERS_AUTHORIZATION_FILE=" + in("z")},
			func(c *Config) string { return headerOf(c, "Authorization") }, "z"},
		"proxy": {"", []string{remote, "REGISTRY_PROXY_HTTPPROXY_FILE=" + in("http://u:p%40@proxy.test:3128\n")},
			func(c *Config) string { return c.Remotes[0].HTTPProxy.String() }, "http://u:p%40@proxy.test:3128"},
		"proxy of the first": {"", []string{remote, "REGISTRY_PROXY_HTTPPROXY_FILE_1=" + in("none")},
			func(c *Config) string { return map[bool]string{true: "none"}[c.Remotes[0].NoHTTPProxy] }, "none"},
		"proxy of the third": {"", []string{remote, "REGISTRY_PROXY_REMOTEURL_3=q.example.com", "REGISTRY_PROXY_HTTPPROXY_FILE_3=" + in("http://p.test")},
			func(c *Config) string { return c.Remotes[1].HTTPProxy.String() }, "http://p.test"},
		// Of these it is the path that is the setting.
		"password": {"", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD_FILE=testdata/../credentials.go"},
			func(c *Config) string { return c.Remotes[0].Credentials.PasswordFile }, "testdata/../credentials.go"},
		// A header that is called so.
		"header called file": {endpoint, []string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_HEADERS_FILE=[/a]"},
			func(c *Config) string { return headerOf(c, "file") }, "/a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustLoad(t, tt.file, tt.environ...)
			if got := tt.get(c); got != tt.want || len(c.Warnings) > 0 {
				t.Errorf("got %q, %q, want %q", got, c.Warnings, tt.want)
			}
		})
	}
	// Accepted like the settings themselves, though nothing uses them.
	for _, variable := range []string{"REGISTRY_REDIS_PASSWORD_FILE", "REGISTRY_REDIS_SENTINELPASSWORD_FILE", "REGISTRY_LOG_HOOKS_0_MAILOPTIONS_SMTP_PASSWORD_FILE",
		"REGISTRY_HEALTH_HTTPCHECKERS_0_HEADERS_AUTHORIZATION_FILE"} {
		for _, warning := range mustLoad(t, "", variable+"="+in("x")).Warnings {
			if strings.Contains(warning, "not a setting") {
				t.Error(warning)
			}
		}
	}
}

func TestSecretsInFilesErrors(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "hunter2"
	large := write(t, "large", strings.Repeat(secret, 10_000))
	huge := write(t, "huge", strings.Repeat(secret, 1<<18))
	lines := write(t, "lines", secret+"\n"+secret)
	good := write(t, "good", secret)
	for name, tt := range map[string]struct{ variable, value, says string }{
		"absent": {"HTTP_SECRET_FILE", "/absent",
			`REGISTRY_HTTP_SECRET_FILE (http.secret): "/absent" cannot be read (no such file or directory): write the path of a file that exists and is readable for this program's user`},
		"secret in place of its file": {"HTTP_SECRET_FILE", secret, `REGISTRY_HTTP_SECRET_FILE (http.secret): cannot be read (no such file or directory): write the path of a file that exists and is readable for this program's user, and not what it holds`},
		"directory":                   {"HTTP_SECRET_FILE", "/", `"/" cannot be read (is a directory)`},
		"pipe":                        {"HTTP_SECRET_FILE", pipe, "cannot be read (not a regular file, but a pipe or a device)"},
		"empty":                       {"HTTP_SECRET_FILE", write(t, "empty", "\n"), "is empty: write the path of a file that holds the value"},
		"too large":                   {"HTTP_SECRET_FILE", large, "is larger than 64 KiB"},
		"much too large":              {"HTTP_SECRET_FILE", huge, "it is larger than 1 MiB"},
		"two lines":                   {"HTTP_SECRET_FILE", lines, "has more than one line: write the path of a file that holds the value alone"},
		"header of two lines":         {"NOTIFICATIONS_ENDPOINTS_0_HEADERS_AUTHORIZATION_FILE", lines, "has more than one line"},
		"proxy that is none": {"PROXY_HTTPPROXY_FILE_2", good,
			"REGISTRY_PROXY_HTTPPROXY_FILE_2 (proxy.remotes.0.httpproxy): is not the URL of a proxy"},
		"number 0": {"PROXY_HTTPPROXY_FILE_0", good, "write REGISTRY_PROXY_HTTPPROXY_FILE for the first remote"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadWith(t, "", "REGISTRY_PROXY_REMOTEURL_2=r.example.com", prefix+tt.variable+"="+tt.value)
			if err == nil {
				t.Fatalf("no error, but %+v", c)
			}
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), secret) {
				t.Errorf("error %q does not say %q, or shows the secret", err, tt.says)
			}
		})
	}
	for _, name := range []string{"HTTP_SECRET", "PROXY_HTTPPROXY_2", "REDIS_PASSWORD"} {
		asFile := strings.TrimSuffix(name, "_2") + "_FILE" + strings.TrimPrefix(name, strings.TrimSuffix(name, "_2"))
		_, err := loadWith(t, "", "REGISTRY_PROXY_REMOTEURL_2=r.example.com", prefix+name+"=none", prefix+asFile+"="+good)
		want := prefix + asFile + " ("
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "is set, and "+prefix+name+" too, for the same: keep only one of them") {
			t.Errorf("both of %s: error is %v", name, err)
		}
	}
	// All at once.
	_, err := loadWith(t, "", "REGISTRY_HTTP_SECRET_FILE=/absent", "REGISTRY_REDIS_PASSWORD_FILE="+lines, "REGISTRY_PROXY_TAGTTL=soon", "REGISTRY_PROXY_REMOTEURL=r")
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("error is %v, want one of three problems", err)
	}
}

// What is no secret is not read from a file, and what is mistyped is found.
func TestNotInFiles(t *testing.T) {
	path := write(t, "x", "x")
	for variable, hint := range map[string]string{
		"REGISTRY_HTTP_ADDR_FILE":                "",
		"REGISTRY_HTTP_FILE":                     "",
		"REGISTRY_PROXY_USERNAME_FILE":           "",
		"REGISTRY_PROXY_USERNAME_FILE_2":         "",
		"REGISTRY_HTTP_HEADERS_X_FILE":           "",
		"REGISTRY_HTTP_SECRET_FILE_FILE":         "",
		"REGISTRY_HTTP_SERCET_FILE":              `(did you mean "REGISTRY_HTTP_SECRET_FILE"?)`,
		"REGISTRY_PROXY_HTTPROXY_FILE_2":         `(did you mean "REGISTRY_PROXY_HTTPPROXY_FILE_2"?)`,
		"REGISTRY_FILE":                          "",
		"REGISTRY__FILE":                         "",
		"REGISTRY_PROXY_EXEC_COMMAND_FILE":       "",
		"REGISTRY_NOTIFICATIONS_ENDPOINTS_FILE":  "",
		"REGISTRY_PROXY_HTTPPROXY_FILE_2_MORE_1": "",
	} {
		warnings := mustLoad(t, "", variable+"="+path).Warnings
		want := variable + " is not a setting and is ignored"
		if hint != "" {
			want += " " + hint
		}
		if !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("%s: warnings are %q", variable, warnings)
		}
	}
}

// FuzzSecretFile checks that a secret is what is in its file, without the end of its
// line, or is refused without being shown.
func FuzzSecretFile(f *testing.F) {
	for _, content := range []string{"", "\n", "x", "x\r\n", " *x: [#\n\n", "a\nb", "\x00", strings.Repeat("x", maxSecret+1)} {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := source{environ: []string{"REGISTRY_HTTP_SECRET_FILE=" + path}}.load("")
		want := bytes.TrimRight(content, "\r\n")
		if err == nil && (c.Stock.HTTP.Secret != string(want) || len(want) == 0 || len(c.Warnings) > 0) {
			t.Errorf("%q is read as %q, %q", content, c.Stock.HTTP.Secret, c.Warnings)
		}
		if err != nil && (len(want) > 0 && len(want) < maxSecret && !bytes.ContainsAny(want, "\r\n\x00") || len(want) > 20 && bytes.Contains([]byte(err.Error()), want[:20])) {
			t.Errorf("%q: %v", content, err)
		}
	})
}
