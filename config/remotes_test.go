package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"
)

// remoteOf returns the remote with that number.
func remoteOf(t *testing.T, c *Config, number int) Remote {
	t.Helper()
	i := slices.IndexFunc(c.Remotes, func(r Remote) bool { return r.Number == number })
	if i < 0 {
		t.Fatalf("there is no remote %d in %+v", number, c.Remotes)
	}
	return c.Remotes[i]
}

// hostsOf returns number, host and, with a star, whether each remote is default.
func hostsOf(c *Config) string {
	var all []string
	for _, r := range c.Remotes {
		s := fmt.Sprintf("%d=%s", r.Number, r.URL.Host)
		if r.Default {
			s += "*"
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestRemotes(t *testing.T) {
	const list = "version: 0.1\nproxy:\n  remoteurl: a\n  remotes:\n  - remoteurl: b\n  - remoteurl: c\n"
	tests := []struct {
		name    string
		file    string
		environ []string
		want    string
	}{
		{"by number", "", []string{"REGISTRY_PROXY_REMOTEURL=a", "REGISTRY_PROXY_REMOTEURL_2=b", "REGISTRY_PROXY_REMOTEURL_3=c"}, "1=a* 2=b 3=c"},
		{"numbers are no text", "", []string{"REGISTRY_PROXY_REMOTEURL_10=b", "REGISTRY_PROXY_REMOTEURL_9=a"}, "9=a* 10=b"},
		{"gaps", "", []string{"REGISTRY_PROXY_REMOTEURL_64=z", "REGISTRY_PROXY_REMOTEURL_2=b"}, "2=b* 64=z"},
		{"number 1", "", []string{"REGISTRY_PROXY_REMOTEURL_1=a"}, "1=a*"},
		{"number 1 over the file", list, []string{"REGISTRY_PROXY_REMOTEURL_1=z"}, "1=z* 2=b 3=c"},
		{"second alone", "", []string{"REGISTRY_PROXY_REMOTEURL_2=b"}, "2=b*"},
		{"list", list, nil, "1=a* 2=b 3=c"},
		{"list alone", "version: 0.1\nproxy: {remotes: [{remoteurl: b}]}", nil, "2=b*"},
		{"empty list", "version: 0.1\nproxy: {remotes: []}", nil, ""},
		{"number left out in a list", "version: 0.1\nproxy:\n  remotes:\n  -\n  - remoteurl: c", nil, "3=c*"},
		{"variable over a list", list, []string{"REGISTRY_PROXY_REMOTEURL_3=z"}, "1=a* 2=b 3=z"},
		{"variable beyond a list", list, []string{"REGISTRY_PROXY_REMOTEURL_5=z"}, "1=a* 2=b 3=c 5=z"},
		{"empty variable removes", list, []string{"REGISTRY_PROXY_REMOTEURL_2="}, "1=a* 3=c"},
		{"empty variables set nothing", "", []string{"REGISTRY_PROXY_EXEC_COMMAND_2=", "REGISTRY_PROXY_DENY_3=", "REGISTRY_PROXY_DEFAULT_4=", "REGISTRY_PROXY_REMOTEURL_5=e"}, "5=e*"},
		{"whole list, then parts of it", list, []string{"REGISTRY_PROXY_DEFAULT_2=true", "REGISTRY_PROXY_REMOTES=[{remoteurl: y}]"}, "1=a* 2=y*"},
		{"whole section", "", []string{"REGISTRY_PROXY={remoteurl: a, remotes: [{remoteurl: b}]}", "REGISTRY_PROXY_REMOTEURL_2=z"}, "1=a* 2=z"},
		{"default is another", list, []string{"REGISTRY_PROXY_DEFAULT=false", "REGISTRY_PROXY_DEFAULT_3=true"}, "1=a 2=b 3=c*"},
		{"default are several", "version: 0.1\nproxy: {remoteurl: a, remotes: [{remoteurl: b, default: true}, {remoteurl: c}]}", nil, "1=a* 2=b* 3=c"},
		{"only remote is not default", "", []string{"REGISTRY_PROXY_REMOTEURL=a", "REGISTRY_PROXY_DEFAULT=false"}, "1=a"},
		{"same host at other ports", "", []string{"REGISTRY_PROXY_REMOTEURL=a:5000", "REGISTRY_PROXY_REMOTEURL_2=a:5001", "REGISTRY_PROXY_REMOTEURL_3=a"}, "1=a:5000* 2=a:5001 3=a"},
		{"alias repeats the host", "", []string{"REGISTRY_PROXY_REMOTEURL=docker.io", "REGISTRY_PROXY_ALIAS=docker.io"}, "1=registry-1.docker.io*"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, tt.file, tt.environ...)
			if got := hostsOf(c); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(c.Warnings) > 0 {
				t.Errorf("warnings: %q", c.Warnings)
			}
		})
	}
}

// TestSettingsOfRemotes sets each setting in each of the ways: as a variable with
// and without number, and in each place of a file. The value is that of a variable,
// where lists are text.
func TestSettingsOfRemotes(t *testing.T) {
	certificate, key := newKeyPair(t)
	secret := write(t, "secret", "from a file\r\n")
	docker := write(t, "config.json", `{"auths": {}}`)
	tests := []struct {
		settings string // name=value, separated by |
		got      func(Remote) any
		want     any
	}{
		{"USERNAME=u|PASSWORD=p", func(r Remote) any { return r.Credentials.Username + string(r.Credentials.Password) }, "up"},
		{"USERNAME=u|PASSWORD_FILE=" + secret, func(r Remote) any { return r.Credentials.PasswordFile }, secret},
		{"USERNAME=u|PASSWORDFILE=" + secret, func(r Remote) any { return string(r.Credentials.Password) }, ""},
		{"IDENTITYTOKEN=t", func(r Remote) any { return string(r.Credentials.IdentityToken) }, "t"},
		{"IDENTITYTOKEN_FILE=" + secret, func(r Remote) any { return r.Credentials.IdentityTokenFile + string(r.Credentials.IdentityToken) }, secret},
		{"IDENTITYTOKENFILE=" + secret, func(r Remote) any { return r.Credentials.IdentityTokenFile }, secret},
		{"DOCKERCONFIG=" + docker, func(r Remote) any { return r.Credentials.DockerConfig }, docker},
		{"EXEC_COMMAND=helper -v", func(r Remote) any { return fmt.Sprint(r.Credentials.Command, r.Credentials.CommandLifetime) }, "helper -v<nil>"},
		{"EXEC_COMMAND=h|EXEC_LIFETIME=1h", func(r Remote) any { return *r.Credentials.CommandLifetime }, time.Hour},
		{"EXEC_COMMAND=h|EXEC_LIFETIME=0s", func(r Remote) any { return *r.Credentials.CommandLifetime }, time.Duration(0)},
		{"ALLOWEDREALMS=a.example.com, b.example.com:8443", func(r Remote) any { return r.AllowedRealms }, "[a.example.com b.example.com:8443]"},
		{"ALIAS=hub", func(r Remote) any { return r.Alias }, "hub"},
		{"DEFAULT=false", func(r Remote) any { return r.Default }, false},
		{"DEFAULT=true", func(r Remote) any { return r.Default }, true},
		{"NAMESPACES=quay.io GHCR.io,quay.io", func(r Remote) any { return r.Namespaces }, "[quay.io ghcr.io]"},
		{"NAMESPACES=docker.io", func(r Remote) any { return r.Namespaces }, "[docker.io]"},
		{"ALLOW=library/* , team/**", func(r Remote) any { return r.Allow }, "[library/* team/**]"},
		{"DENY=x, **/internal", func(r Remote) any { return r.Deny }, "[x **/internal]"},
		{"DENIEDISABSENT=true", func(r Remote) any { return r.DeniedIsAbsent }, true},
		{"TAGTTL=0", func(r Remote) any { return r.TagTTL }, time.Duration(0)},
		{"TAGRULES=semver=immutable,{a,b}=1h|TAGTTL=1h", func(r Remote) any { return r.TagRules }, "[semver=immutable {a,b}=1h]"},
		{"STALEWHILEREVALIDATE=9s|MAXSTALE=0|NEGATIVETTL=3m", func(r Remote) any { return fmt.Sprint(r.StaleWhileRevalidate, *r.MaxStale, r.NegativeTTL) }, "9s 0s 3m0s"},
		{"TTL=0h", func(r Remote) any { return r.TTL }, time.Duration(0)},
		{"CERTIFICATE=" + certificate + "|KEY=" + key, func(r Remote) any { return r.CertFile + r.KeyFile }, certificate + key},
		{"CA=" + certificate, func(r Remote) any { return r.CAFile }, certificate},
		{"HTTPPROXY=http://u:p@proxy.example.com:3128", func(r Remote) any { return fmt.Sprint(r.HTTPProxy, r.NoHTTPProxy) }, "http://u:p@proxy.example.com:3128 false"},
		{"HTTPPROXY=socks5://127.0.0.1/", func(r Remote) any { return r.HTTPProxy.Scheme + r.HTTPProxy.Host }, "socks5127.0.0.1"},
		{"HTTPPROXY=none", func(r Remote) any { return fmt.Sprint(r.HTTPProxy, r.NoHTTPProxy) }, "<nil> true"},
		{"CONNECTIONS=2|MAXCONNECTIONS=8", func(r Remote) any { return fmt.Sprint(r.Connections, r.MaxConnections) }, "2 8"},
		{"BANDWIDTH=1MB/s", func(r Remote) any { return r.Bandwidth }, int64(1e6)},
		{"STALLTIMEOUT=9s|RETRYFOR=0", func(r Remote) any { return fmt.Sprint(r.StallTimeout, r.RetryFor) }, "9s 0s"},
	}
	ways := map[string]struct {
		number int
		file   bool
		suffix string // of the variable
	}{
		"first, by variable":   {1, false, ""},
		"first, by number":     {1, false, "_1"},
		"first, by file":       {1, true, ""},
		"second, by number":    {2, false, "_2"},
		"second, by file":      {2, true, ""},
		"last one, by number":  {64, false, "_64"},
		"fourth one, by file":  {4, true, ""},
		"twelfth, by variable": {12, false, "_12"},
	}
	for name, way := range ways {
		for _, tt := range tests {
			t.Run(name+"/"+tt.settings, func(t *testing.T) {
				settings := strings.Split("REMOTEURL=r.example.com|"+tt.settings, "|")
				var c *Config
				if way.file {
					c = mustLoad(t, inFile(t, way.number, settings))
				} else {
					environ := make([]string, len(settings))
					for i, s := range settings {
						name, value, _ := strings.Cut(s, "=")
						environ[i] = "REGISTRY_PROXY_" + name + way.suffix + "=" + value
					}
					c = mustLoad(t, "", environ...)
				}
				r := remoteOf(t, c, way.number)
				if got := tt.got(r); got != tt.want && fmt.Sprint(got) != tt.want {
					t.Errorf("got %v (%T), want %v", got, got, tt.want)
				}
				if len(c.Warnings) > 0 {
					t.Errorf("warnings: %q", c.Warnings)
				}
				if len(c.Remotes) != 1 {
					t.Errorf("got remotes %s", hostsOf(c))
				}
			})
		}
	}
}

// inFile returns a file with settings for the remote with that number, and for no
// other.
func inFile(t *testing.T, number int, settings []string) string {
	t.Helper()
	remote := map[string]any{}
	for _, s := range settings {
		name, text, _ := strings.Cut(s, "=")
		var value any = text
		if b, err := strconv.ParseBool(text); err == nil && len(text) > 1 {
			value = b
		}
		section := remote
		name = strings.Replace(strings.ToLower(name), "_file", "file", 1)
		if outer, inner, ok := strings.Cut(name, "_"); ok {
			if remote[outer] == nil {
				remote[outer] = map[string]any{}
			}
			section, name = remote[outer].(map[string]any), inner
		}
		section[name] = value
	}
	proxy := remote
	if number > 1 {
		list := make([]any, number-1)
		list[number-2] = remote
		proxy = map[string]any{"remotes": list}
	}
	text, err := yaml.Marshal(map[string]any{"version": "0.1", "proxy": proxy})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRemoteErrors(t *testing.T) {
	const first, second = "REGISTRY_PROXY_REMOTEURL=a.example.com", "REGISTRY_PROXY_REMOTEURL_2=b.example.com"
	empty := write(t, "empty", "\r\n")
	notObject := write(t, "config.json", "[]")
	null := write(t, "null.json", "null")
	list := func(second string) string {
		return "version: 0.1\nproxy:\n  remoteurl: a.example.com\n  remotes:\n  - remoteurl: b.example.com\n    " + second
	}
	many := "version: 0.1\nproxy:\n  remotes:\n"
	for i := range 64 {
		many += fmt.Sprintf("  - remoteurl: r%d.example.com\n", i)
	}
	tests := []struct {
		name    string
		file    string
		environ []string
		want    []string // all of the problems in order, or a part of each
	}{
		{"variable and key", "", []string{second, "REGISTRY_PROXY_TAGTTL_2=7d"},
			[]string{`REGISTRY_PROXY_TAGTTL_2 (proxy.remotes.0.tagttl): "7d" is not a duration`}},
		{"key and its line", list("tagttl: 7d"), nil, []string{`REGISTRY_PROXY_TAGTTL_2 (proxy.remotes.0.tagttl, line 6): "7d" is not a duration`}},
		{"variable over a line", list("tagttl: 7d"), []string{"REGISTRY_PROXY_TAGTTL_2=8d"}, []string{`REGISTRY_PROXY_TAGTTL_2 (proxy.remotes.0.tagttl): "8d" is not`}},
		{"list over lines", list("tagttl: 7d"), []string{"REGISTRY_PROXY_REMOTES=[{remoteurl: b, tagttl: 8d}]"},
			[]string{`REGISTRY_PROXY_TAGTTL_2 (proxy.remotes.0.tagttl): "8d" is not`}},
		{"first by number", "", []string{"REGISTRY_PROXY_REMOTEURL_1=a", "REGISTRY_PROXY_TAGTTL_1=7d"}, []string{`REGISTRY_PROXY_TAGTTL_1 (proxy.tagttl): "7d"`}},
		{"all at once", list("connections: 0"), []string{"REGISTRY_PROXY_BANDWIDTH=1", "REGISTRY_PROXY_RETRYFOR_2=x", "REGISTRY_PROXY_STALLTIMEOUT_40=0", "REGISTRY_PROXY_REMOTEURL_40=ftp://z"},
			[]string{"REGISTRY_PROXY_BANDWIDTH (proxy.bandwidth)", "REGISTRY_PROXY_CONNECTIONS_2 (proxy.remotes.0.connections, line 6)", "REGISTRY_PROXY_RETRYFOR_2 (",
				"REGISTRY_PROXY_REMOTEURL_40 (proxy.remotes.38.remoteurl)", "REGISTRY_PROXY_STALLTIMEOUT_40 (proxy.remotes.38.stalltimeout)"}},
		{"element is text", "version: 0.1\nproxy: {remotes: [quay.io]}", nil, []string{"(proxy.remotes.0, line 2): is not a section", "REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl, line 2): is missing"}},
		{"element without settings", "version: 0.1\nproxy:\n  remotes:\n  - url: a", nil, []string{"REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl, line 4): is missing: write the URL of the remote"}},
		{"list is text", "version: 0.1\nproxy: {remotes: quay.io}", nil, []string{"REGISTRY_PROXY_REMOTES (proxy.remotes, line 2): is not a list"}},
		{"fewer connections in all", list("maxconnections: 2"), []string{"REGISTRY_PROXY_CONNECTIONS_2=3"}, []string{"is less than REGISTRY_PROXY_CONNECTIONS_2 (proxy.remotes.0.connections), which is 3"}},

		{"number 0", "", []string{first, "REGISTRY_PROXY_ALIAS_0=x"}, []string{"REGISTRY_PROXY_ALIAS_0: the number at the end is that of a remote, and they begin with 1: write REGISTRY_PROXY_ALIAS for the first remote"}},
		{"index in a list", "", []string{first, "REGISTRY_PROXY_ALLOWEDREALMS_0=x"}, []string{"write REGISTRY_PROXY_ALLOWEDREALMS for the first remote, and all elements of a list into one variable, with commas in between"}},
		{"number 0 of a file", "", []string{first, "REGISTRY_PROXY_PASSWORD_FILE_0=x"}, []string{"write REGISTRY_PROXY_PASSWORD_FILE for the first"}},
		{"number 65", "", []string{first, "REGISTRY_PROXY_ALIAS_65=x"}, []string{"REGISTRY_PROXY_ALIAS_65: the number at the end is that of a remote, and they end with 64"}},
		{"huge number", "", []string{first, "REGISTRY_PROXY_ALIAS_99999999999999999999=x"}, []string{"they end with 64"}},
		{"number with zeros", "", []string{first, "REGISTRY_PROXY_EXEC_COMMAND_02=x"}, []string{"REGISTRY_PROXY_EXEC_COMMAND_02: the number at the end has a 0 in front: write REGISTRY_PROXY_EXEC_COMMAND_2"}},
		{"many elements", many, nil, []string{"REGISTRY_PROXY_REMOTES (proxy.remotes, line 4): has 64 elements: there can be 64 remotes, the one without a number included"}},
		{"one setting by two names", "", []string{first, "REGISTRY_PROXY_ALIAS=x", "REGISTRY_PROXY_ALIAS_1=y"},
			[]string{"REGISTRY_PROXY_ALIAS_1 (proxy.alias): is set, and REGISTRY_PROXY_ALIAS too, for the same: keep only one of them"}},
		{"one file by two names", "", []string{first, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORDFILE=" + notObject, "REGISTRY_PROXY_PASSWORD_FILE=" + empty},
			[]string{"REGISTRY_PROXY_PASSWORD_FILE (proxy.passwordfile): is set, and REGISTRY_PROXY_PASSWORDFILE too"}},

		{"settings without URL", "", []string{first, "REGISTRY_PROXY_TAGTTL_3=1m"},
			[]string{"REGISTRY_PROXY_TAGTTL_3 (proxy.remotes.1.tagttl): is set, but REGISTRY_PROXY_REMOTEURL_3 is not: write the URL of the remote there, or remove all settings of remote number 3"}},
		{"settings without any URL", "", []string{"REGISTRY_PROXY_EXEC_COMMAND_2=x"}, []string{"REGISTRY_PROXY_EXEC_COMMAND_2 (proxy.remotes.0.exec.command): is set, but REGISTRY_PROXY_REMOTEURL_2 is not"}},
		{"a choice without URL", "", []string{"REGISTRY_PROXY_DEFAULT_2=false"}, []string{"REGISTRY_PROXY_DEFAULT_2 (proxy.remotes.0.default): is set, but"}},
		{"settings of the first without URL", "", []string{second, "REGISTRY_PROXY_TAGTTL=1m"}, []string{"REGISTRY_PROXY_TAGTTL (proxy.tagttl): is set, but REGISTRY_PROXY_REMOTEURL is not"}},
		{"settings without URL in a file", "version: 0.1\nproxy:\n  remotes:\n  - alias: x", nil, []string{"REGISTRY_PROXY_ALIAS_2 (proxy.remotes.0.alias, line 4): is set, but REGISTRY_PROXY_REMOTEURL_2"}},
		{"wrong settings without URL", "", []string{first, "REGISTRY_PROXY_TAGTTL_3=7d"}, []string{"is set, but REGISTRY_PROXY_REMOTEURL_3 is not", `"7d" is not a duration`}},

		{"user name alone", "", []string{first, second, "REGISTRY_PROXY_USERNAME_2=u"},
			[]string{"REGISTRY_PROXY_PASSWORD_2 (proxy.remotes.0.password): is missing, but REGISTRY_PROXY_USERNAME_2 (proxy.remotes.0.username) is set: set it or REGISTRY_PROXY_PASSWORD_FILE_2 (proxy.remotes.0.passwordfile)"}},
		{"password alone", "", []string{first, second, "REGISTRY_PROXY_PASSWORD_2=p"}, []string{"REGISTRY_PROXY_USERNAME_2 (proxy.remotes.0.username): is missing"}},
		{"absent password file", "", []string{second, "REGISTRY_PROXY_USERNAME_2=u", "REGISTRY_PROXY_PASSWORD_FILE_2=/absent"},
			[]string{`REGISTRY_PROXY_PASSWORD_FILE_2 (proxy.remotes.0.passwordfile): "/absent" cannot be read (no such file or directory)`}},
		{"absent password file, as the scheme has it", "", []string{second, "REGISTRY_PROXY_USERNAME_2=u", "REGISTRY_PROXY_PASSWORDFILE_2=/absent"},
			[]string{`REGISTRY_PROXY_PASSWORDFILE_2 (proxy.remotes.0.passwordfile): "/absent"`}},
		{"password in place of its file", "", []string{second, "REGISTRY_PROXY_USERNAME_2=u", "REGISTRY_PROXY_PASSWORD_FILE_2=hunter2"},
			[]string{`REGISTRY_PROXY_PASSWORD_FILE_2 (proxy.remotes.0.passwordfile): cannot be read (no such file or directory): write the path of a file that exists and is readable for this program's user, and not what it holds`}},
		{"token and its file", "", []string{first, "REGISTRY_PROXY_IDENTITYTOKEN=t", "REGISTRY_PROXY_IDENTITYTOKEN_FILE=/f"},
			[]string{`REGISTRY_PROXY_IDENTITYTOKEN_FILE (proxy.identitytokenfile): "/f" is set, and proxy.identitytoken too: keep only one of them`}},
		{"empty token file", "", []string{first, "REGISTRY_PROXY_IDENTITYTOKEN_FILE=" + empty}, []string{"is empty: write the identitytoken into it"}},
		{"absent Docker configuration", "", []string{first, "REGISTRY_PROXY_DOCKERCONFIG=/absent"}, []string{`REGISTRY_PROXY_DOCKERCONFIG (proxy.dockerconfig): "/absent" cannot be read`}},
		{"Docker configuration of other form", "", []string{first, "REGISTRY_PROXY_DOCKERCONFIG=" + notObject}, []string{"is not a Docker configuration: write the path of a config.json"}},
		{"Docker configuration of nothing", "", []string{first, "REGISTRY_PROXY_DOCKERCONFIG=" + null}, []string{"is not a Docker configuration"}},
		{"Docker configuration that is no JSON", "", []string{first, "REGISTRY_PROXY_DOCKERCONFIG=" + empty}, []string{"is not a Docker configuration"}},
		{"lifetime without command", "", []string{first, "REGISTRY_PROXY_EXEC_LIFETIME=1h"}, []string{"REGISTRY_PROXY_EXEC_COMMAND (proxy.exec.command): is missing, but proxy.exec.lifetime is set"}},
		{"negative lifetime", "", []string{first, "REGISTRY_PROXY_EXEC_COMMAND=x", "REGISTRY_PROXY_EXEC_LIFETIME=-1h"}, []string{"REGISTRY_PROXY_EXEC_LIFETIME (proxy.exec.lifetime): is negative"}},
		{"lifetime in words", "", []string{second, "REGISTRY_PROXY_EXEC_COMMAND_2=x", "REGISTRY_PROXY_EXEC_LIFETIME_2=long"},
			[]string{"REGISTRY_PROXY_EXEC_LIFETIME_2 (proxy.remotes.0.exec.lifetime): is not a duration: write for example 30s, 5m or 1h"}},
		{"two kinds of credentials", "", []string{second, "REGISTRY_PROXY_USERNAME_2=u", "REGISTRY_PROXY_IDENTITYTOKEN_2=t"},
			[]string{"REGISTRY_PROXY_IDENTITYTOKEN_2 (proxy.remotes.0.identitytoken): is set, and REGISTRY_PROXY_USERNAME_2 (proxy.remotes.0.username) too: keep only one kind of credentials"}},
		{"all kinds of credentials", "", []string{first, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD=p", "REGISTRY_PROXY_IDENTITYTOKEN=t",
			"REGISTRY_PROXY_DOCKERCONFIG=/absent", "REGISTRY_PROXY_EXEC_COMMAND=x"},
			[]string{"(proxy.dockerconfig): \"/absent\" is set, and proxy.username too", "(proxy.exec.command): is set, and proxy.username too", "(proxy.identitytoken): is set"}},

		{"same host", "", []string{first, "REGISTRY_PROXY_REMOTEURL_2=http://A.example.com/v2/"},
			[]string{`REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl): "http://a.example.com" means what REGISTRY_PROXY_REMOTEURL (proxy.remoteurl) means already`}},
		{"same host by its other name", "", []string{"REGISTRY_PROXY_REMOTEURL_2=docker.io", "REGISTRY_PROXY_REMOTEURL_3=https://registry-1.docker.io:443"},
			[]string{"REGISTRY_PROXY_REMOTEURL_3 (proxy.remotes.1.remoteurl): \"https://registry-1.docker.io\" means what REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl)"}},
		{"alias is an alias", "", []string{first, second, "REGISTRY_PROXY_ALIAS_1=x", "REGISTRY_PROXY_ALIAS_2=x"},
			[]string{`REGISTRY_PROXY_ALIAS_2 (proxy.remotes.0.alias): "x" means what REGISTRY_PROXY_ALIAS_1 (proxy.alias) means already: each host, alias and namespace has to mean one thing`}},
		{"alias is a host", "", []string{first, second, "REGISTRY_PROXY_ALIAS_2=a.example.com"}, []string{`REGISTRY_PROXY_ALIAS_2 (proxy.remotes.0.alias): "a.example.com" means what REGISTRY_PROXY_REMOTEURL (`}},
		{"host is an alias", "", []string{first, second, "REGISTRY_PROXY_ALIAS=b.example.com"}, []string{`REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl): "https://b.example.com" means what REGISTRY_PROXY_ALIAS (`}},
		{"alias is a name of Docker Hub", "", []string{"REGISTRY_PROXY_REMOTEURL=docker.io", second, "REGISTRY_PROXY_ALIAS_2=index.docker.io"}, []string{`"index.docker.io" means what REGISTRY_PROXY_REMOTEURL (`}},
		{"namespace is a host", "", []string{first, second, "REGISTRY_PROXY_NAMESPACES_2=ghcr.io, A.example.com"}, []string{`REGISTRY_PROXY_NAMESPACES_2 (proxy.remotes.0.namespaces): "a.example.com" means what REGISTRY_PROXY_REMOTEURL (`}},
		{"namespace is an alias", "", []string{first, second, "REGISTRY_PROXY_ALIAS=quay.io", "REGISTRY_PROXY_NAMESPACES_2=quay.io"}, []string{`"quay.io" means what REGISTRY_PROXY_ALIAS (`}},
		{"alias is a namespace", "", []string{first, second, "REGISTRY_PROXY_ALIAS_2=quay.io", "REGISTRY_PROXY_NAMESPACES=quay.io"}, []string{`REGISTRY_PROXY_ALIAS_2 (proxy.remotes.0.alias): "quay.io" means what REGISTRY_PROXY_NAMESPACES (`}},
		{"host is a namespace", "", []string{first, "REGISTRY_PROXY_REMOTEURL_2=docker.io", "REGISTRY_PROXY_NAMESPACES=docker.io"}, []string{`REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl): "https://registry-1.docker.io" means what REGISTRY_PROXY_NAMESPACES (`}},
		{"namespace is a namespace", "", []string{first, second, "REGISTRY_PROXY_NAMESPACES=docker.io", "REGISTRY_PROXY_NAMESPACES_2=registry-1.docker.io"}, []string{`"registry-1.docker.io" means what REGISTRY_PROXY_NAMESPACES (`}},
		{"namespace is the host of its own remote", "", []string{first, "REGISTRY_PROXY_NAMESPACES=a.example.com"}, []string{`REGISTRY_PROXY_NAMESPACES (proxy.namespaces): "a.example.com" means what REGISTRY_PROXY_REMOTEURL (`}},
		{"namespace is the alias of its own remote", "", []string{first, "REGISTRY_PROXY_ALIAS=quay.io", "REGISTRY_PROXY_NAMESPACES=quay.io"}, []string{`"quay.io" means what REGISTRY_PROXY_ALIAS (`}},
		{"namespaces that are not hosts", "", []string{first, "REGISTRY_PROXY_NAMESPACES=https://quay.io, a/b, ghcr.io, [, a:0"},
			[]string{`REGISTRY_PROXY_NAMESPACES (proxy.namespaces): "https://quay.io" is not a host: write for example quay.io`, `"a/b" is not a host`, `"[" is not a host`, `"a:0" is not a host`}},
		{"alias", "", []string{second, "REGISTRY_PROXY_ALIAS_2=A"}, []string{`REGISTRY_PROXY_ALIAS_2 (proxy.remotes.0.alias): "A" is not a path component`}},
		{"patterns", list("deny: [/x, ok]"), []string{"REGISTRY_PROXY_ALLOW_2=x/, y/*"},
			[]string{`REGISTRY_PROXY_ALLOW_2 (proxy.remotes.0.allow): "x/" has a slash`, `REGISTRY_PROXY_DENY_2 (proxy.remotes.0.deny, line 6): "/x" has a slash`}},
		{"proxy without scheme", "", []string{second, "REGISTRY_PROXY_HTTPPROXY_2=proxy.example.com:3128"},
			[]string{"REGISTRY_PROXY_HTTPPROXY_2 (proxy.remotes.0.httpproxy): is not the URL of a proxy: write for example http://proxy.example.com:3128"}},
		{"proxy of another scheme", "", []string{first, "REGISTRY_PROXY_HTTPPROXY=ftp://a"}, []string{"REGISTRY_PROXY_HTTPPROXY (proxy.httpproxy): is not the URL of a proxy"}},
		{"proxy without host", "", []string{first, "REGISTRY_PROXY_HTTPPROXY=http://"}, []string{"is not the URL of a proxy"}},
		{"proxy with a path", "", []string{first, "REGISTRY_PROXY_HTTPPROXY=http://a/b"}, []string{"is not the URL of a proxy"}},
		{"proxy with a wrong port", "", []string{first, "REGISTRY_PROXY_HTTPPROXY=http://a:70000"}, []string{"is not the URL of a proxy"}},
		{"proxy by another word", "", []string{first, "REGISTRY_PROXY_HTTPPROXY=off"}, []string{"or none to use no proxy"}},
		{"insecure", list("insecure: perhaps"), nil, []string{`REGISTRY_PROXY_INSECURE_2 (proxy.remotes.0.insecure, line 6): "perhaps" is not a yes or no: write true or false`}},
		{"default", "", []string{second, "REGISTRY_PROXY_DEFAULT_2=first"}, []string{`REGISTRY_PROXY_DEFAULT_2 (proxy.remotes.0.default): "first" is not a yes or no`}},
		{"denied is absent", "", []string{second, "REGISTRY_PROXY_DENIEDISABSENT_2=403"}, []string{`"403" is not a yes or no`}},
		{"remote with user", "", []string{"REGISTRY_PROXY_REMOTEURL_2=https://user:word@a"},
			[]string{`"https://REDACTED@a" has a user name in the URL: write it as proxy.remotes.0.username and proxy.remotes.0.password (REGISTRY_PROXY_USERNAME_2, REGISTRY_PROXY_PASSWORD_2)`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := loadWith(t, tt.file, tt.environ...)
			errs, ok := errors.AsType[*Errors](err)
			if !ok || c != nil {
				t.Fatalf("got %v, %v, want problems", c, err)
			}
			if len(errs.Problems) != len(tt.want) {
				t.Fatalf("got %v, want %d problems", err, len(tt.want))
			}
			for i, want := range tt.want {
				if got := errs.Problems[i].Error(); !strings.Contains(got, want) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		})
	}
}

func TestRemoteWarnings(t *testing.T) {
	certificate, _ := newKeyPair(t)
	const first, second = "REGISTRY_PROXY_REMOTEURL=a", "REGISTRY_PROXY_REMOTEURL_2=http://b"
	tests := []struct {
		name    string
		environ []string
		want    []string // parts of the warnings, one for each
	}{
		{"mistyped URL", []string{"REGISTRY_PROXY_REMOTURL_2=a"}, []string{`REGISTRY_PROXY_REMOTURL_2 is not a setting and is ignored (did you mean "REGISTRY_PROXY_REMOTEURL_2"?)`}},
		{"mistyped command", []string{first, "REGISTRY_PROXY_EXEC_COMAND_12=a"}, []string{`(did you mean "REGISTRY_PROXY_EXEC_COMMAND_12"?)`}},
		{"mistyped file", []string{first, "REGISTRY_PROXY_PASWORD_FILE_2=a"}, []string{`(did you mean "REGISTRY_PROXY_PASSWORD_FILE_2"?)`}},
		{"mistyped file of the first", []string{first, "REGISTRY_PROXY_IDENTITYTOKEN_FIEL=a"}, []string{`(did you mean "REGISTRY_PROXY_IDENTITYTOKEN_FILE"?)`}},
		{"global setting with a number", []string{first, "REGISTRY_PROXY_OFFLINE_2=true"}, []string{`REGISTRY_PROXY_OFFLINE_2 is not a setting and is ignored (did you mean "REGISTRY_PROXY_OFFLINE"?)`}},
		{"number of remote and index", []string{first, "REGISTRY_PROXY_DENY_2_0=a"}, []string{"REGISTRY_PROXY_DENY_2_0 is not a setting and is ignored"}},
		{"clear text", []string{first, second, "REGISTRY_PROXY_USERNAME_2=u", "REGISTRY_PROXY_PASSWORD_2=p"},
			[]string{"REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl) has no TLS: the password is sent in clear text"}},
		{"clear text of a token", []string{second, "REGISTRY_PROXY_IDENTITYTOKEN_2=t"}, []string{"has no TLS: credentials are sent in clear text"}},
		{"clear text of a command", []string{second, "REGISTRY_PROXY_EXEC_COMMAND_2=t"}, []string{"has no TLS: credentials are sent in clear text"}},
		{"TLS with a password", []string{first, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD=p"}, nil},
		{"certificates without TLS", []string{second, "REGISTRY_PROXY_CA_2=" + certificate}, []string{"has no TLS: REGISTRY_PROXY_CA_2 (proxy.remotes.0.ca) and REGISTRY_PROXY_CERTIFICATE_2 (proxy.remotes.0.certificate) have no effect"}},
		{"insecure without TLS", []string{second, "REGISTRY_PROXY_INSECURE_2=true"}, []string{"REGISTRY_PROXY_REMOTEURL_2 (proxy.remotes.0.remoteurl) has no TLS: REGISTRY_PROXY_INSECURE_2 (proxy.remotes.0.insecure) has no effect"}},
		{"insecure", []string{first, "REGISTRY_PROXY_INSECURE=true"}, []string{"REGISTRY_PROXY_INSECURE (proxy.insecure) is true: who is on the way can pretend to be a"}},
		{"no default", []string{first, second, "REGISTRY_PROXY_DEFAULT=false"}, []string{"no remote has REGISTRY_PROXY_DEFAULT (proxy.default): only what is asked for by the host"}},
		{"age limits", []string{first, second, "REGISTRY_PROXY_TTL=1h", "REGISTRY_PROXY_TTL_2=1h"}, nil},
		{"settings of no remote", []string{"REGISTRY_PROXY_DENY=x"}, []string{"REGISTRY_PROXY_REMOTEURL (proxy.remoteurl) is not set"}},
		{"lifetime without unit", []string{second, "REGISTRY_PROXY_EXEC_COMMAND_2=x", "REGISTRY_PROXY_EXEC_LIFETIME_2=60"},
			[]string{"REGISTRY_PROXY_EXEC_LIFETIME_2 (proxy.remotes.0.exec.lifetime): 60 has no unit and means nanoseconds", "clear text"}},
		{"service link that looks like a number", []string{"REGISTRY_PORT_5000_TCP_PORT_2=1"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := mustLoad(t, "", tt.environ...).Warnings
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q, want %q", got[i], want)
				}
			}
		})
	}
}

// TestVariableOfEachSetting makes sure that the variable which a message names is
// one that sets what the message is about.
func TestVariableOfEachSetting(t *testing.T) {
	for _, number := range []int{1, 2, 64} {
		for _, setting := range []string{"remoteurl", "passwordfile", "identitytokenfile", "exec.command", "exec.lifetime", "deny", "tagrules", "default", "deniedisabsent", "exec"} {
			key := join(remoteKey(number), setting)
			l := newLoader("")
			l.decodeEnvironment(builtin(), []string{variable(key) + "="})
			if l.variables[key] != variable(key) || len(l.warnings)+len(l.problems) > 0 {
				t.Errorf("%s does not set %s, but %v: %q, %v", variable(key), key, l.variables, l.warnings, l.failed())
			}
			want := ""
			if number > 1 {
				want = "_" + strconv.Itoa(number)
			}
			if !strings.HasSuffix(variable(key), want) {
				t.Errorf("the variable of %s is %s", key, variable(key))
			}
		}
	}
}
