package config

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// FuzzLoad checks that whatever file and variable there are, the result is
// either a complete configuration or problems, and that a password in either
// is in neither warnings nor problems.
func FuzzLoad(f *testing.F) {
	for _, path := range []string{"testdata/stock/default.yml", "testdata/stock/proxy.yml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "PROXY_TAGTTL", "5m")
	}
	f.Add("version: 0.1\nstorage: {maintenance: {uploadpurging: 1}}", "STORAGE_MAINTENANCE_READONLY_ENABLED", "1")
	f.Add("version: 0.1\nproxy: {exec: {command: x}}", "PROXY_EXEC_LIFETIME", "1s")
	f.Add("version: 0.1\nlog: {fields: {a: [1, {b: c}]}}", "LOG_FIELDS_A_1_B", "[*x]")
	f.Add("version: 0.1\nhttp: &a {headers: *a}", "NOTIFICATIONS_ENDPOINTS_0_HEADERS_A_0", "x")
	f.Add("a: &a [*a]", "CACHE_MINFREE", "-0%")
	f.Add("version: 0.1\nproxy: {remoteurl: r, connections: 4}", "PROXY_MAXCONNECTIONS", "3")
	f.Add("version: 0.1\nproxy: {remoteurl: r, bandwidth: 8kbit/s}", "CACHE_BANDWIDTH", "0")
	f.Add("version: 0.1\nnotifications: {endpoints: [~, {url: 'x@y'}]}", "PROXY_ALLOWEDREALMS_0", "{}")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		if name == "PROXY_PASSWORD_FILE" || strings.Contains(text, "passwordfile") {
			return // not of files that the fuzzer happens to name
		}
		l := newLoader("config.yml")
		doc := l.decodeFile([]byte(text))
		l.decodeEnvironment(doc, []string{prefix + name + "=" + value})
		doc.Proxy.Password = "hunter2"
		c, err := l.finish(doc)
		if err != nil {
			errs, ok := errors.AsType[*Errors](err)
			if !ok || c != nil || len(errs.Problems) == 0 {
				t.Fatalf("got %v, %v", c, err)
			}
			if lines := strings.Count(err.Error(), "\n"); lines != len(errs.Problems) {
				t.Errorf("%d lines for %d problems: %q", lines, len(errs.Problems), err)
			}
			if !strings.Contains(text+value, "hunter2") && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %q", err)
			}
			return
		}
		if c.DataDir == "" || c.Addr == "" || c.AdminAddr == "" || c.MaxSize < 0 || c.Bandwidth < 0 || c.PartialTTL < 0 || c.Stock.Storage.Type() != "filesystem" {
			t.Errorf("incomplete: %+v", c)
		}
		if len(c.Remotes) > 0 && (c.Remotes[0].URL.Host == "" || c.Remotes[0].TagTTL < 0 || c.Remotes[0].TTL < 0) {
			t.Errorf("bad remote: %+v", c.Remotes[0])
		}
		if r := c.Remotes[0]; len(c.Remotes) > 0 && (r.Connections < 1 || r.Connections > r.MaxConnections || r.MaxConnections > mostMaxConnections ||
			r.Bandwidth < 0 || r.StallTimeout <= 0 || r.RetryFor < 0) {
			t.Errorf("bad limits of a remote: %+v", r)
		}
	})
}
