package config

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// FuzzLoad checks that whatever file and variables there are, the result is
// either a complete configuration or problems, and that a password in either
// is in neither warnings nor problems.
func FuzzLoad(f *testing.F) {
	for _, path := range []string{"testdata/stock/default.yml", "testdata/stock/proxy.yml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "PROXY_TAGTTL", "5m", "PROXY_REMOTEURL_2", "quay.io")
	}
	f.Add("version: 0.1\nstorage: {maintenance: {uploadpurging: 1}}", "STORAGE_MAINTENANCE_READONLY_ENABLED", "1", "", "")
	f.Add("version: 0.1\nproxy: {exec: {command: x}}", "PROXY_EXEC_LIFETIME", "1s", "PROXY_EXEC_COMMAND_64", "~")
	f.Add("version: 0.1\nlog: {fields: {a: [1, {b: c}]}}", "LOG_FIELDS_A_1_B", "[*x]", "PROXY_DENY_2", "**/x !y #")
	f.Add("version: 0.1\nhttp: &a {headers: *a}", "NOTIFICATIONS_ENDPOINTS_0_HEADERS_A_0", "x", "PROXY_ALIAS_", "1")
	f.Add("a: &a [*a]", "CACHE_MINFREE", "-0%", "PROXY_REMOTES_1", "{alias: a}")
	f.Add("version: 0.1\nproxy: {remoteurl: r, connections: 4}", "PROXY_MAXCONNECTIONS", "3", "PROXY_CONNECTIONS_1", "2")
	f.Add("version: 0.1\nproxy: {remoteurl: r, offline: true}", "PROXY_OFFLINESCHEDULE", "Fri-Mon 22:00-06:00", "PROXY_OFFLINESCHEDULE_2", "x")
	f.Add("version: 0.1\nproxy: {remoteurl: r, bandwidth: 8kbit/s}", "CACHE_BANDWIDTH", "0", "PROXY_REMOTEURL_3", "http://docker.io:80")
	f.Add("version: 0.1\nnotifications: {endpoints: [~, {url: 'x@y'}]}", "PROXY_ALLOWEDREALMS_0", "{}", "PROXY_NAMESPACES_99999999999999999999", "[")
	f.Add("version: 0.1\nproxy: {remotes: [{remoteurl: a, alias: b}, ~, {remoteurl: b}]}", "PROXY_DEFAULT_4", "false", "PROXY_REMOTES", "[{remoteurl: c}]")
	f.Add("version: 0.1\nproxy: {remotes: [{remoteurl: docker.io, httpproxy: 'socks5://a'}]}", "PROXY_HTTPPROXY_2", "none", "PROXY_TTL_2", "1h")
	f.Add("version: 0.1\nproxy: {remoteurl: r, tagrules: ['{a,b}=1h', semver=immutable], maxstale: 0}", "PROXY_TAGRULES_2", "library/**:latest=always,*=10m", "PROXY_REMOTEURL_2", "docker.io")
	f.Add("version: 0.1\nproxy: {remoteurl: r, tagttl: 0}", "PROXY_TAGRULES", "[0-9]=0,{a,b", "PROXY_NEGATIVETTL", "-1s")
	f.Fuzz(func(t *testing.T, text, name, value, name2, value2 string) {
		for _, s := range []string{strings.ToLower(name), strings.ToLower(name2), text} {
			if strings.Contains(s, "file") || strings.Contains(s, "dockerconfig") {
				return // not of files that the fuzzer happens to name
			}
		}
		l := newLoader("config.yml")
		doc := l.decodeFile([]byte(text))
		l.decodeEnvironment(doc, []string{prefix + name + "=" + value, prefix + name2 + "=" + value2})
		doc.Proxy.Password = "hunter2"
		for i := range doc.Proxy.Remotes {
			doc.Proxy.Remotes[i].IdentityToken = "hunter2"
		}
		c, err := l.finish(doc)
		said := strings.Join(l.warnings, " ")
		if err != nil {
			said += err.Error()
		}
		if !strings.Contains(text+name+value+name2+value2, "hunter2") && strings.Contains(said, "hunter2") {
			t.Errorf("the password is in %q", said)
		}
		if err != nil {
			errs, ok := errors.AsType[*Errors](err)
			if !ok || c != nil || len(errs.Problems) == 0 {
				t.Fatalf("got %v, %v", c, err)
			}
			if lines := strings.Count(err.Error(), "\n"); lines != len(errs.Problems) {
				t.Errorf("%d lines for %d problems: %q", lines, len(errs.Problems), err)
			}
			return
		}
		if c.DataDir == "" || c.Addr == "" || c.AdminAddr == "" || c.MaxSize < 0 || c.Bandwidth < 0 || c.PartialTTL < 0 ||
			c.BindingTTL < 0 || c.Stock.Storage.Type() != "filesystem" || len(c.Remotes) > mostRemotes {
			t.Errorf("incomplete: %+v", c)
		}
		checkRemotes(t, c.Remotes)
	})
}

// FuzzSecretInText puts a secret where one belongs, with anything around it that stays
// within the value as a person sees it: whatever YAML makes of that, no message has it.
func FuzzSecretInText(f *testing.F) {
	const secret = "hunter2"
	for _, seed := range []string{"", "*", "&", "&a *", "!!int ", "!", "{a: ", "[", "@", "`", "%", "? ", "- ", ": ", "a: ", "\"", "'", "| ", "> ", "#", "\\x", "\x00", "!<tag:", "<<: *", "{*x: *", "&a [*a, "} {
		f.Add(seed, "")
		f.Add(seed, "}")
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.ContainsAny(before+after, "\n\r\u0085\u2028\u2029") || len(before+after) > 100 {
			return
		}
		value := before + secret + after
		for _, file := range []string{
			"version: 0.1\nproxy:\n  remoteurl: a\n  username: u\n  password: " + value + "\n  tagttl: x\n",
			"version: 0.1\nproxy:\n  remotes:\n  - identitytoken: " + value + "\n",
			"version: 0.1\nstorage:\n  s3:\n    secretkey: " + value + "\n",
			"version: 0.1\nredis:\n  password: " + value + "\n",
		} {
			checkSaid(t, secret, file)
		}
		for _, name := range []string{"PROXY_PASSWORD", "PROXY_IDENTITYTOKEN_2", "PROXY_HTTPPROXY", "PROXY_EXEC_COMMAND", "HTTP_SECRET", "STORAGE_S3_SECRETKEY", "REDIS_PASSWORD"} {
			checkSaid(t, secret, "", prefix+name+"="+value)
		}
	})
}

// checkSaid loads a configuration and checks that no message has the secret.
func checkSaid(t *testing.T, secret, file string, environ ...string) {
	t.Helper()
	l := newLoader("config.yml")
	doc := builtin()
	if file != "" {
		doc = l.decodeFile([]byte(file))
	}
	l.decodeEnvironment(doc, environ)
	_, err := l.finish(doc)
	said := strings.Join(l.warnings, " ")
	if err != nil {
		said += err.Error()
	}
	if strings.Contains(said, secret) {
		t.Errorf("%q and %q make it say %s", file, environ, said)
	}
}

// checkRemotes checks that remotes are as [Config] promises.
func checkRemotes(t *testing.T, remotes []Remote) {
	t.Helper()
	last, names := 0, map[string]int{}
	for _, r := range remotes {
		if r.Number <= last || r.URL.Host == "" || r.TagTTL < 0 || r.TTL < 0 {
			t.Errorf("bad remote: %+v", r)
		}
		if r.Connections < 1 || r.Connections > r.MaxConnections || r.MaxConnections > mostMaxConnections ||
			r.Bandwidth < 0 || r.StallTimeout <= 0 || r.RetryFor < 0 {
			t.Errorf("bad limits of a remote: %+v", r)
		}
		if r.StaleWhileRevalidate < 0 || r.NegativeTTL < 0 || r.MaxStale != nil && *r.MaxStale < 0 || len(r.TagRules.Hidden()) > 0 {
			t.Errorf("bad lifetimes of a remote: %+v", r)
		}
		for _, rule := range r.TagRules {
			if p := rule.Repositories(); p != "" && badPattern(p, r.Namespaces) != "" || rule.TTL < 0 {
				t.Errorf("bad rule %s", rule)
			}
		}
		last = r.Number
		for _, name := range append(r.Namespaces, r.URL.Host, r.Alias) {
			if name = canonical(name); name != "" && names[name] != 0 && names[name] != r.Number {
				t.Errorf("%q means remote %d and %d", name, names[name], r.Number)
			}
			names[name] = r.Number
		}
		for _, p := range append(r.Allow, r.Deny...) {
			if text := badPattern(p, r.Namespaces); text != "" {
				t.Errorf("the pattern %q %s", p, text)
			}
		}
	}
}
