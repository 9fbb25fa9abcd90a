package auth_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"registry-module/auth"
)

const hub = "registry-1.docker.io"

func TestDockerConfigItself(t *testing.T) {
	for name, tt := range map[string]struct {
		content, host string
		want          authn.AuthConfig
	}{
		"auth":               {`{"auths":{"r.example.com":{"auth":"bWU6czNjcmV0"}}}`, "r.example.com", user("me", "s3cret")},
		"user and password":  {`{"auths":{"r.example.com":{"username":"me","password":"s3cret"}}}`, "r.example.com", user("me", "s3cret")},
		"colon in password":  {`{"auths":{"r.example.com":{"auth":"bWU6czNjOnJldA=="}}}`, "r.example.com", user("me", "s3c:ret")},
		"identity token":     {`{"auths":{"r.example.com":{"auth":"bWU6","identitytoken":"s3cret"}}}`, "r.example.com", authn.AuthConfig{Username: "me", IdentityToken: "s3cret"}},
		"registry token":     {`{"auths":{"r.example.com":{"registrytoken":"s3cret"}}}`, "r.example.com", authn.AuthConfig{RegistryToken: "s3cret"}},
		"port":               {`{"auths":{"r.example.com:5000":{"username":"me","password":"a"},"r.example.com":{"username":"me","password":"b"}}}`, "r.example.com:5000", user("me", "a")},
		"port of another":    {`{"auths":{"r.example.com:5000":{"username":"me","password":"a"}}}`, "r.example.com", authn.AuthConfig{}},
		"URL":                {`{"auths":{"https://r.example.com/v1/":{"username":"me","password":"a"}}}`, "r.example.com", user("me", "a")},
		"name before URL":    {`{"auths":{"https://r.example.com/v1/":{"username":"me","password":"a"},"r.example.com":{"username":"me","password":"b"}}}`, "r.example.com", user("me", "b")},
		"several URLs":       {`{"auths":{"https://r.example.com/v2/":{"username":"me","password":"b"},"https://r.example.com/v1/":{"username":"me","password":"a"}}}`, "r.example.com", user("me", "a")},
		"port of https":      {`{"auths":{"r.example.com:443":{"username":"me","password":"a"}}}`, "r.example.com", user("me", "a")},
		"URL with port":      {`{"auths":{"https://r.example.com:443/v2/":{"username":"me","password":"a"}}}`, "r.example.com", user("me", "a")},
		"name before port":   {`{"auths":{"r.example.com:443":{"username":"me","password":"b"},"r.example.com":{"username":"me","password":"a"}}}`, "r.example.com", user("me", "a")},
		"port of an address": {`{"auths":{"[::1]:443":{"username":"me","password":"a"}}}`, "[::1]", user("me", "a")},
		"other port, https":  {`{"auths":{"r.example.com:443":{"username":"me","password":"a"}}}`, "r.example.com:5000", authn.AuthConfig{}},
		"Podman's paths":     {`{"auths":{"quay.io/org":{"username":"me","password":"a"},"quay.io/other":{"username":"me","password":"b"}}}`, "quay.io", authn.AuthConfig{}},
		"Podman's host":      {`{"auths":{"quay.io/org":{"username":"me","password":"a"},"quay.io":{"username":"me","password":"b"}}}`, "quay.io", user("me", "b")},
		"path of a URL":      {`{"auths":{"https://quay.io/org":{"username":"me","password":"a"}}}`, "quay.io", authn.AuthConfig{}},
		"slash at the end":   {`{"auths":{"quay.io/":{"username":"me","password":"a"}}}`, "quay.io", user("me", "a")},
		"Hub, refresh token": {`{"auths":{"https://index.docker.io/v1/":{},"https://index.docker.io/v1/refresh-token":{"username":"me","password":"a"},"https://index.docker.io/v1/access-token":{"username":"me","password":"b"}}}`, hub, authn.AuthConfig{}},
		"other host":         {`{"auths":{"r.example.com":{"username":"me","password":"a"}}}`, "q.example.com", authn.AuthConfig{}},
		"name of a part":     {`{"auths":{"r.example.com.evil.net":{"username":"me","password":"a"},"example.com":{"username":"me","password":"a"}}}`, "r.example.com", authn.AuthConfig{}},
		"no hosts":           {`{"psFormat":"x"}`, "r.example.com", authn.AuthConfig{}},
		"nothing":            {`{}`, "r.example.com", authn.AuthConfig{}},
		"Hub, as logged in":  {`{"auths":{"https://index.docker.io/v1/":{"username":"me","password":"a"}}}`, hub, user("me", "a")},
		"Hub by its index":   {`{"auths":{"index.docker.io":{"username":"me","password":"a"}}}`, hub, user("me", "a")},
		"Hub by its name":    {`{"auths":{"docker.io":{"username":"me","password":"a"}}}`, hub, user("me", "a")},
		"Hub by its host":    {`{"auths":{"registry-1.docker.io":{"username":"me","password":"a"}}}`, hub, user("me", "a")},
		"Hub, best name":     {`{"auths":{"docker.io":{"username":"me","password":"b"},"https://index.docker.io/v1/":{"username":"me","password":"a"}}}`, hub, user("me", "a")},
		"Hub, empty name":    {`{"auths":{"https://index.docker.io/v1/":{},"docker.io":{"username":"me","password":"a"}}}`, hub, user("me", "a")},
		"Hub under its name": {`{"auths":{"https://index.docker.io/v1/":{"username":"me","password":"a"}}}`, "docker.io", user("me", "a")},
		"Hub is no wildcard": {`{"auths":{"https://index.docker.io/v1/":{"username":"me","password":"a"}}}`, "auth.docker.io", authn.AuthConfig{}},
		"helper for another": {`{"auths":{"r.example.com":{"username":"me","password":"a"}},"credHelpers":{"q.example.com":"none"}}`, "r.example.com", user("me", "a")},
		"exempt from store":  {`{"auths":{"r.example.com":{"username":"me","password":"a"}},"credsStore":"none","credHelpers":{"r.example.com":""}}`, "r.example.com", user("me", "a")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir()) // no program is to be run
			wantConfig(t, auth.New(auth.Options{Host: tt.host, DockerConfig: write(t, "", tt.content)}), tt.want)
		})
	}
}

func TestDockerConfigThatNeverWas(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ path, says string }{
		"missing":      {filepath.Join(dir, "config.json"), "no such file"},
		"empty":        {write(t, "", "\n"), "empty"},
		"no JSON":      {write(t, "", "s3cret"), "not JSON, or incomplete, at byte 1"},
		"cut short":    {write(t, "", `{"auths":{"r.example.com":{"password":"s3cret`), "incomplete"},
		"a list":       {write(t, "", `["s3cret"]`), "not a Docker configuration"},
		"wrong type":   {write(t, "", `{"auths":{"r.example.com":{"password":9007199254740993}}}`), "not a Docker configuration"},
		"no base64":    {write(t, "", `{"auths":{"r.example.com":{"auth":"s3cret"}}}`), "not user:password in base64"},
		"no user name": {write(t, "", `{"auths":{"r.example.com":{"auth":"OnMzY3JldA=="}}}`), "not user:password in base64"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, auth.New(auth.Options{Host: "r.example.com", DockerConfig: tt.path}), "the Docker configuration", tt.path, tt.says)
		})
	}
}

func TestDockerConfigIsReplaced(t *testing.T) {
	path := write(t, "", `{"auths":{"r.example.com":{"username":"me","password":"one"}}}`)
	a := newChanging(t, auth.Options{Host: "r.example.com", DockerConfig: path})
	wantConfig(t, a, user("me", "one"))
	if a.Renew(user("me", "one")) {
		t.Error("the file has not changed, but has other credentials")
	}
	for _, broken := range []string{"", `{"auths":{"r.example.com":{"username":"me"`} {
		write(t, path, broken)
		wantConfig(t, a, user("me", "one"))
	}
	wantStale(t, a, "incomplete")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantConfig(t, a, user("me", "one"))
	wantStale(t, a, "no such file")
	write(t, path, `{"auths":{"r.example.com":{"username":"me","password":"two"}}}`)
	if !a.Renew(user("me", "one")) {
		t.Error("the file has changed, but has no other credentials")
	}
	wantConfig(t, a, user("me", "two"))
	write(t, path, `{"auths":{}}`)
	wantConfig(t, a, authn.AuthConfig{})
}

// helper makes docker-credential-<name> answer from the files <dir>/<server>, and
// returns a function that gives what it was asked for since the last time.
func helper(t *testing.T, dir, name string) (asked func() string) {
	t.Helper()
	log := filepath.Join(dir, name+".log")
	script(t, dir, "docker-credential-"+name, `read server
[ "$*" = get ] || exit 9
echo "$server" >>'`+log+`'
file='`+dir+`'/$(echo "$server" | tr / _)
[ -e "$file" ] || { echo credentials not found in native keychain; exit 1; }
cat "$file"`)
	return func() string {
		content, err := os.ReadFile(log)
		if err != nil {
			return ""
		}
		if err := os.Remove(log); err != nil {
			t.Error(err)
		}
		return strings.Join(strings.Fields(string(content)), " ")
	}
}

func TestDockerConfigHelpers(t *testing.T) {
	const answer = `{"ServerURL":"x","Username":"me","Secret":"s3cret"}`
	const index = "https://index.docker.io/v1/"
	for name, tt := range map[string]struct {
		content, host string
		stored        string // under which name the helper has credentials
		want          authn.AuthConfig
		asked         string
	}{
		"for the host":           {`{"credHelpers":{"r.example.com":"test"}}`, "r.example.com", "r.example.com", user("me", "s3cret"), "r.example.com"},
		"for all":                {`{"credsStore":"test"}`, "r.example.com", "r.example.com", user("me", "s3cret"), "r.example.com"},
		"before the one for all": {`{"credsStore":"none","credHelpers":{"r.example.com":"test"}}`, "r.example.com", "r.example.com", user("me", "s3cret"), "r.example.com"},
		"before what is stored":  {`{"auths":{"r.example.com":{"username":"me","password":"other"}},"credsStore":"test"}`, "r.example.com", "r.example.com", user("me", "s3cret"), "r.example.com"},
		"without credentials":    {`{"auths":{"r.example.com":{"username":"me","password":"other"}},"credsStore":"test"}`, "r.example.com", "", authn.AuthConfig{}, "r.example.com"},
		"beside a registry token": {`{"auths":{"r.example.com":{"registrytoken":"t"}},"credsStore":"test"}`, "r.example.com", "r.example.com",
			authn.AuthConfig{Username: "me", Password: "s3cret", RegistryToken: "t"}, "r.example.com"},
		"Hub, for all":         {`{"credsStore":"test"}`, hub, index, user("me", "s3cret"), index},
		"Hub, as logged in":    {`{"credHelpers":{"https://index.docker.io/v1/":"test"}}`, hub, index, user("me", "s3cret"), index},
		"Hub by its name":      {`{"credHelpers":{"docker.io":"test"}}`, hub, index, user("me", "s3cret"), index},
		"Hub, under its name":  {`{"credHelpers":{"docker.io":"test"}}`, hub, "docker.io", user("me", "s3cret"), index + " docker.io"},
		"port of https":        {`{"credHelpers":{"r.example.com:443":"test"}}`, "r.example.com", "r.example.com:443", user("me", "s3cret"), "r.example.com r.example.com:443"},
		"port of https, store": {`{"auths":{"r.example.com:443":{}},"credsStore":"test"}`, "r.example.com", "r.example.com:443", user("me", "s3cret"), "r.example.com r.example.com:443"},
		"Hub, for another one": {`{"credHelpers":{"r.example.com":"test"}}`, hub, index, authn.AuthConfig{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			asked := helper(t, dir, "test")
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			if tt.stored != "" {
				write(t, filepath.Join(dir, strings.ReplaceAll(tt.stored, "/", "_")), answer)
			}
			a := newChanging(t, auth.Options{Host: tt.host, DockerConfig: write(t, "", tt.content)})
			wantConfig(t, a, tt.want)
			wantConfig(t, a, tt.want)
			if got := asked(); got != tt.asked {
				t.Errorf("the helper was asked for %q, want %q", got, tt.asked)
			}
		})
	}
}

func TestDockerConfigHelperFails(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "docker-credential-fails", "echo s3cret; exit 4")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, tt := range map[string]struct {
		helper string
		says   []string
	}{
		"missing":       {"missing", []string{"docker-credential-missing", "no such program on PATH"}},
		"fails":         {"fails", []string{"docker-credential-fails", "exit status 4"}},
		"a path":        {"../../bin/sh", []string{"characters that are not allowed"}},
		"with a space":  {"fails -x", []string{"characters that are not allowed"}},
		"of escape":     {"\\u001b[2J", []string{"characters that are not allowed"}},
		"not printable": {"\\u0000", []string{"characters that are not allowed"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "", `{"credsStore":"`+tt.helper+`"}`)
			wantError(t, auth.New(auth.Options{Host: "r.example.com", DockerConfig: path}), tt.says...)
		})
	}
}

func TestDockerConfigHelperIsRenewed(t *testing.T) {
	dir := t.TempDir()
	asked := helper(t, dir, "test")
	other := helper(t, dir, "other")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	stored := write(t, filepath.Join(dir, "r.example.com"), `{"Username":"me","Secret":"one"}`)
	path := write(t, "", `{"credsStore":"test"}`)
	a := newChanging(t, auth.Options{Host: "r.example.com", DockerConfig: path})
	wantConfig(t, a, user("me", "one"))
	write(t, stored, `{"Username":"me","Secret":"two"}`)
	wantConfig(t, a, user("me", "one"))
	if !a.Renew(user("me", "one")) {
		t.Error("the helper is not to be asked again")
	}
	wantConfig(t, a, user("me", "two"))
	if got := asked(); got != "r.example.com r.example.com" {
		t.Errorf("the helper was asked for %q", got)
	}

	// What one helper has said is not taken for another's.
	write(t, path, `{"credsStore":"other"}`)
	if !a.Renew(user("me", "two")) {
		t.Error("there is another helper, but it is not to be asked")
	}
	wantConfig(t, a, user("me", "two"))
	if got := other(); got != "r.example.com" {
		t.Errorf("the other helper was asked for %q", got)
	}

	// Nor for what the file says.
	write(t, path, `{"auths":{"r.example.com":{"username":"me","password":"three"}}}`)
	wantConfig(t, a, user("me", "three"))
	write(t, path, `{"auths":{"r.example.com":{"registrytoken":"t"}},"credsStore":"other"}`)
	if !a.Renew(user("me", "three")) {
		t.Error("there is a token, but none may be had")
	}
}

func FuzzDockerConfig(f *testing.F) {
	for _, seed := range []string{
		`{"auths":{"r.example.com":{"auth":"bWU6czNjcmV0"}},"credsStore":"a","credHelpers":{"r.example.com":"b"}}`,
		`{"auths":{"https://[::1":{}},"credHelpers":null}`, `{"auths":null}`, `{"auths":{"docker.io":{"auth":"="}}}`, `[]`, ``,
	} {
		f.Add([]byte(seed), "r.example.com")
		f.Add([]byte(seed), hub)
	}
	f.Fuzz(func(t *testing.T, content []byte, host string) {
		config, helper, servers, err := auth.LookUpDockerConfig(content, host)
		switch {
		case err != nil:
			if (config != authn.AuthConfig{}) || len(err.Error()) > 200 {
				t.Errorf("%q gives %+v and %v", content, config, err)
			}
		case helper != "" && (len(servers) == 0 || slices.Contains(servers, "") && host != ""):
			t.Errorf("%q asks %q for %q", content, helper, servers)
		}
	})
}
