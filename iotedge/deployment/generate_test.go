package deployment

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// top, middle and bottom are three layers as they are deployed.
func top() Options {
	return Options{
		Layer: Top, Hostname: "top.example", Image: "contoso.azurecr.io/registry-module:1.0",
		Upstreams: []Upstream{{URL: "https://mcr.microsoft.com"}, {URL: "contoso.azurecr.io", Username: "site-pull"}},
	}
}

func middle() Options {
	return Options{Layer: Middle, Hostname: "middle.example", ParentHostname: "top.example", Image: "contoso.azurecr.io/registry-module:1.0", Cache: true}
}

func bottom() Options {
	return Options{Layer: Bottom, Hostname: "bottom.example", ParentHostname: "10.0.0.2"}
}

// with returns o, changed.
func with(o Options, change func(*Options)) Options {
	change(&o)
	return o
}

// module is a module of a manifest that was made.
type module struct {
	StartupOrder int
	Settings     map[string]string
	Env          map[string]struct{ Value string }
}

// readMade reads the modules and the credentials of a manifest, in either form.
func readMade(t *testing.T, r *Result) (modules map[string]module, credentials map[string]Credential) {
	t.Helper()
	var m struct {
		ModulesContent map[string]map[string]json.RawMessage
		Content        struct {
			ModulesContent map[string]map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(r.Files[0].Content, &m); err != nil {
		t.Fatal(err)
	}
	modules, credentials = map[string]module{}, map[string]Credential{}
	read := func(text json.RawMessage, v any) {
		if err := json.Unmarshal(text, v); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
	if text, ok := m.ModulesContent["$edgeAgent"][desired]; ok {
		var d struct {
			Runtime struct {
				Settings struct{ RegistryCredentials map[string]Credential }
			}
			SystemModules, Modules map[string]module
		}
		read(text, &d)
		maps.Copy(modules, d.SystemModules)
		maps.Copy(modules, d.Modules)
		return modules, d.Runtime.Settings.RegistryCredentials
	}
	for key, text := range m.Content.ModulesContent["$edgeAgent"] {
		if name, ok := strings.CutPrefix(key, desired+".modules."); ok {
			var one module
			read(text, &one)
			modules[name] = one
		}
		if name, ok := strings.CutPrefix(key, desired+".runtime.settings.registryCredentials."); ok {
			var one Credential
			read(text, &one)
			credentials[name] = one
		}
	}
	return modules, credentials
}

// TestAllCombinations makes everything that can be asked for, and wants that it keeps the
// rules, and what no deployment may lack.
func TestAllCombinations(t *testing.T) {
	flags := []func(*Options){
		func(o *Options) { o.Layered = true }, func(o *Options) { o.Direct = true }, func(o *Options) { o.Cache = true },
		func(o *Options) { o.Blob = true }, func(o *Options) { o.Metrics = true }, func(o *Options) { o.Anonymous = true },
		func(o *Options) { o.AutoEdgeCA = true }, func(o *Options) { o.Port = 443 },
		func(o *Options) { o.Modules = map[string]string{"press": "contoso.azurecr.io/press:3"} },
	}
	made := map[Layer]int{}
	for _, base := range []Options{top(), with(middle(), func(o *Options) { o.Cache = false }), bottom()} {
		for bits := range 1 << len(flags) {
			o := base
			for i, flag := range flags {
				if bits&(1<<i) != 0 {
					flag(&o)
				}
			}
			r, err := Generate(o)
			if err != nil {
				continue // they contradict each other, which another test is about
			}
			made[o.Layer]++
			if again, err := Generate(o); err != nil || !slices.EqualFunc(r.Files, again.Files, func(a, b File) bool { return string(a.Content) == string(b.Content) }) {
				t.Errorf("%+v gives other files the second time: %v", o, err)
			}
			checkMade(t, o, r)
		}
	}
	if made[Top] < 50 || made[Middle] < 50 || made[Bottom] < 16 {
		t.Errorf("made %v", made)
	}
}

func checkMade(t *testing.T, o Options, r *Result) {
	t.Helper()
	bad := func(format string, args ...any) { t.Errorf("%+v: %s", o, fmt.Sprintf(format, args...)) }
	if problems := Validate(r.Files[0].Content); len(problems) > 0 {
		bad("%v", problems)
	}
	modules, credentials := readMade(t, r)
	orders, images := map[int]string{}, []string{}
	for name, m := range modules {
		images = append(images, m.Settings["image"])
		options := m.Settings["createOptions"] + m.Settings["createOptions01"]
		if !strings.Contains(options, `"max-size"`) || !strings.Contains(options, `"max-file"`) {
			bad("the log of %s can fill the disk: %s", name, options)
		}
		if o.Layer != Top && !strings.HasPrefix(m.Settings["image"], "$upstream:") {
			bad("%s is pulled from %s", name, m.Settings["image"])
		}
		if other, taken := orders[m.StartupOrder]; taken && name != "edgeAgent" && other != "edgeAgent" {
			bad("%s and %s start at once", name, other)
		}
		orders[m.StartupOrder] = name
	}
	if !o.Layered && (len(modules) != len(r.Images) || !slices.Equal(sortedOf(images), sortedOf(r.Images))) {
		bad("images %q, of them told %q", images, r.Images)
	}
	if o.Layer != Top && !o.Anonymous && credentials["upstream"].Address != upstreamHost+":"+fmt.Sprint(o.withDefaults().Port) {
		bad("credentials %v", credentials)
	}
	registry, runs := modules[registryModule]
	if runs != o.runsRegistry() {
		bad("registry-module: %v", runs)
	}
	options := registry.Settings["createOptions"]
	if runs && (!strings.Contains(options, `"registry-cache:/var/lib/registry"`) || strings.Contains(options, "HostPort") != o.Direct) {
		bad("registry-module has %s", options)
	}
	proxy := modules[DefaultProxyModule].Env
	if route := proxy["DOCKER_REQUEST_ROUTE_ADDRESS"].Value; (route == "registry:8000") != (runs && !o.Direct) {
		bad("the proxy routes to %q", route)
	}
	if target, ok := modules[metricsModule].Env["UploadTarget"]; ok != o.Metrics || ok && (target.Value == "AzureMonitor") != (o.Layer == Top) {
		bad("metrics go to %q", target.Value)
	}
	for _, p := range r.Placeholders {
		if p.Meaning == "" || len(p.Files) == 0 {
			bad("placeholder %+v", p)
		}
	}
}

func sortedOf(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func TestGenerateErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		want []string
	}{
		"no layer":           {Options{}, []string{"--layer top, middle or bottom"}},
		"unknown layer":      {Options{Layer: "medium"}, []string{`--layer "medium"`}},
		"all at once":        {Options{Layer: Top, Port: 70000, Hostname: "a:8000", Runtime: "1 5", ProxyModule: "a b"}, []string{"--port", "--hostname", "--runtime-version", "--proxy-module", "--image is missing", "--upstream URL"}},
		"IPv6":               {with(top(), func(o *Options) { o.Hostname = "fe80::1" }), []string{"IPv4 address"}},
		"name too long":      {with(top(), func(o *Options) { o.Hostname = strings.Repeat("a.", 32) + "a" }), []string{"up to 64 characters"}},
		"its own parent":     {with(middle(), func(o *Options) { o.ParentHostname = "Middle.example" }), []string{"--parent-hostname are both"}},
		"port of edgeHub":    {with(top(), func(o *Options) { o.Port = 8883 }), []string{"--port 8883 is edgeHub's"}},
		"direct at 443":      {with(top(), func(o *Options) { o.Direct, o.Port = true, 443 }), []string{"--port 443 is edgeHub's"}},
		"top below":          {with(top(), func(o *Options) { o.ParentHostname, o.Cache, o.Login = "a", true, "u" }), []string{"--parent-hostname", "--cache", "--login"}},
		"blob below":         {with(middle(), func(o *Options) { o.Blob = true }), []string{"--blob is for the top"}},
		"bottom as gateway":  {with(bottom(), func(o *Options) { o.Cache = true }), []string{"--cache and --direct"}},
		"direct, no cache":   {with(middle(), func(o *Options) { o.Cache, o.Direct = false, true }), []string{"--direct on a middle layer needs --cache"}},
		"direct and blob":    {with(top(), func(o *Options) { o.Direct, o.Blob = true, true }), []string{"--blob needs the API proxy"}},
		"login and none":     {with(middle(), func(o *Options) { o.Login, o.Anonymous = "u", true }), []string{"contradict"}},
		"image's form":       {with(top(), func(o *Options) { o.Image = "a b" }), []string{"--image: image \"a b\" has a space"}},
		"image of parent":    {with(top(), func(o *Options) { o.Image = "$upstream:8000/a:1" }), []string{"$upstream is for lower layers"}},
		"remotes twice":      {with(top(), func(o *Options) { o.Settings = map[string]string{remoteURL: "a.example"} }), []string{"write only one of them"}},
		"remote twice":       {with(top(), func(o *Options) { o.Upstreams = append(o.Upstreams, Upstream{URL: "https://mcr.microsoft.com/"}) }), []string{"mcr.microsoft.com: is given twice"}},
		"no registry":        {with(top(), func(o *Options) { o.Upstreams = []Upstream{{URL: "ftp://a"}} }), []string{"no address of a registry"}},
		"password in URL":    {with(top(), func(o *Options) { o.Upstreams = []Upstream{{URL: "https://u:hunter2@a.example"}} }), []string{"a.example: no password in the URL"}},
		"file without user":  {with(top(), func(o *Options) { o.Upstreams[1] = Upstream{URL: "a.example", PasswordFile: "/a/b/c"} }), []string{"needs a username"}},
		"relative file":      {with(top(), func(o *Options) { o.Upstreams[1] = Upstream{URL: "a.example", Username: "u", PasswordFile: "b"} }), []string{"path on the device"}},
		"file in /etc":       {with(top(), func(o *Options) { o.Settings = map[string]string{"REGISTRY_ACCESS_POLICY": "/etc/policy.yml"} }), []string{"REGISTRY_ACCESS_POLICY: all of /etc"}},
		"no setting":         {with(top(), func(o *Options) { o.Settings = map[string]string{"registry_x": "1"} }), []string{"no variable of registry-module"}},
		"settings at bottom": {with(bottom(), func(o *Options) { o.Settings = map[string]string{"REGISTRY_X": "1"} }), []string{"for layers that run it"}},
		"module's name":      {with(bottom(), func(o *Options) { o.Modules = map[string]string{"a b": "a:1"} }), []string{"no name of a module"}},
		"module is ours":     {with(top(), func(o *Options) { o.Modules = map[string]string{"Registry": "a:1"} }), []string{"made here"}},
		"module's image":     {with(bottom(), func(o *Options) { o.Modules = map[string]string{"a": ""} }), []string{"--module a: the image is empty"}},
		"module with port":   {with(bottom(), func(o *Options) { o.Modules = map[string]string{"a": "r.example:5000/a:1"} }), []string{"--upstream r.example:5000,alias=NAME"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Generate(tt.o)
			if err == nil || r != nil {
				t.Fatalf("was made: %v", r)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
			if lines := strings.Count(err.Error(), "\n") + 1; lines != len(tt.want) {
				t.Errorf("%d problems, want %d:\n%v", lines, len(tt.want), err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a secret is in the message")
			}
		})
	}
}

func TestImagesBelow(t *testing.T) {
	o := with(bottom(), func(o *Options) {
		o.Port, o.Upstreams = 8000, []Upstream{{URL: "https://r.example:5000", Alias: "ours"}}
	})
	for image, want := range map[string]string{
		"mcr.microsoft.com/azureiotedge-hub:1.5":  "$upstream:8000/azureiotedge-hub:1.5",
		"contoso.azurecr.io/team/app@sha256:abcd": "$upstream:8000/contoso.azurecr.io/team/app@sha256:abcd",
		"r.example:5000/team/app":                 "$upstream:8000/ours/team/app",
		"localhost/app:1":                         "$upstream:8000/localhost/app:1",
		"alpine":                                  "$upstream:8000/docker.io/library/alpine",
		"grafana/grafana:11":                      "$upstream:8000/docker.io/grafana/grafana:11",
		"$upstream:8000/app:1":                    "$upstream:8000/app:1",
	} {
		if got, err := o.below(image); got != want || err != nil {
			t.Errorf("%s is %s, %v, want %s", image, got, err, want)
		}
	}
}

// TestSettings looks at the variables of registry-module.
func TestSettings(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		want map[string]string // empty is absent
	}{
		"two remotes": {top(), map[string]string{
			remoteURL: "https://mcr.microsoft.com", remoteURL + "_2": "contoso.azurecr.io", "REGISTRY_PROXY_DEFAULT_2": "true", "REGISTRY_PROXY_USERNAME_2": "site-pull",
			"REGISTRY_PROXY_PASSWORD_2": "${REGISTRY_PROXY_PASSWORD_2}", "REGISTRY_LOG_FORMATTER": "iotedge", "REGISTRY_IOTEDGE_SERVERCERTIFICATE": "",
		}},
		"files and names": {with(top(), func(o *Options) {
			o.Upstreams[1] = Upstream{URL: "a.example", Alias: "ours", Username: "u", PasswordFile: "/run/secrets/a", NotDefault: true}
		}), map[string]string{
			"REGISTRY_PROXY_PASSWORD_2": "", "REGISTRY_PROXY_PASSWORD_FILE_2": "/run/secrets/a", "REGISTRY_PROXY_DEFAULT_2": "false", "REGISTRY_PROXY_ALIAS_2": "ours",
		}},
		"direct": {with(top(), func(o *Options) { o.Direct = true }), map[string]string{"REGISTRY_IOTEDGE_SERVERCERTIFICATE": "true"}},
		"settings win": {with(top(), func(o *Options) {
			o.Settings = map[string]string{"REGISTRY_LOG_FORMATTER": "json", "REGISTRY_PROXY_TAGTTL": "1h"}
		}),
			map[string]string{"REGISTRY_LOG_FORMATTER": "json", "REGISTRY_PROXY_TAGTTL": "1h"}},
		"secrets": {with(top(), func(o *Options) {
			o.Settings = map[string]string{"REGISTRY_HTTP_SECRET": "hunter2", "REGISTRY_PROXY_HTTPPROXY": "http://u:hunter2@p:1", "REGISTRY_PROXY_IDENTITYTOKEN_2": "hunter2"}
		}), map[string]string{
			"REGISTRY_HTTP_SECRET": "${REGISTRY_HTTP_SECRET}", "REGISTRY_PROXY_HTTPPROXY": "${REGISTRY_PROXY_HTTPPROXY}", "REGISTRY_PROXY_IDENTITYTOKEN_2": "${REGISTRY_PROXY_IDENTITYTOKEN_2}",
		}},
		"cache": {with(middle(), func(o *Options) { o.Upstreams = top().Upstreams }), map[string]string{
			remoteURL: "https://$upstream:8000", remoteURL + "_2": "", "REGISTRY_PROXY_TRUSTBUNDLE": "true", "REGISTRY_PROXY_NAMESPACES": "contoso.azurecr.io mcr.microsoft.com",
			"REGISTRY_PROXY_USERNAME": "${UPSTREAM_USERNAME}", "REGISTRY_PROXY_PASSWORD": "${UPSTREAM_PASSWORD}",
		}},
		"cache with a login": {with(middle(), func(o *Options) {
			o.Login, o.Settings = "middle", map[string]string{"REGISTRY_PROXY_PASSWORD_FILE": "/run/secrets/a"}
		}), map[string]string{
			"REGISTRY_PROXY_USERNAME": "middle", "REGISTRY_PROXY_PASSWORD": "", "REGISTRY_PROXY_PASSWORD_FILE": "/run/secrets/a", "REGISTRY_PROXY_NAMESPACES": "",
		}},
		"cache without login": {with(middle(), func(o *Options) { o.Anonymous = true }), map[string]string{"REGISTRY_PROXY_USERNAME": "", "REGISTRY_PROXY_PASSWORD": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Generate(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			modules, _ := readMade(t, r)
			env := modules[registryModule].Env
			for key, want := range tt.want {
				if got := env[key].Value; got != want {
					t.Errorf("%s is %q, want %q", key, got, want)
				}
			}
			for _, f := range r.Files {
				if strings.Contains(string(f.Content), "hunter2") {
					t.Errorf("a secret is in %s", f.Name)
				}
			}
		})
	}
}

func TestBelow(t *testing.T) {
	settings := map[string]string{remoteURL: "mcr.microsoft.com", remoteURL + "_2": "r.example:5000", "REGISTRY_PROXY_ALIAS_2": "ours", "REGISTRY_PROXY_PASSWORD_FILE_2": "/a",
		"REGISTRY_PROXY_OFFLINE": "true", "REGISTRY_CACHE_MAXSIZE": "1GiB"}
	rest, upstreams := Below(settings)
	if !maps.Equal(rest, map[string]string{"REGISTRY_PROXY_OFFLINE": "true", "REGISTRY_CACHE_MAXSIZE": "1GiB"}) || len(settings) != 6 {
		t.Errorf("left are %v", rest)
	}
	if !slices.Equal(upstreams, []Upstream{{URL: "mcr.microsoft.com"}, {URL: "r.example:5000", Alias: "ours"}}) {
		t.Errorf("remotes are %v", upstreams)
	}
	own := map[string]string{remoteURL: "https://$upstream:8000", "REGISTRY_PROXY_TAGTTL": "1h"}
	if rest, upstreams := Below(own); !maps.Equal(rest, own) || upstreams != nil {
		t.Errorf("got %v, %v", rest, upstreams)
	}
}

// TestCredentials are those of the engine on the top, for the image of registry-module.
func TestCredentials(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		want map[string]Credential
	}{
		"private":          {top(), map[string]Credential{"registry": {"site-pull", "${REGISTRY_PROXY_PASSWORD_2}", "contoso.azurecr.io"}}},
		"public":           {with(top(), func(o *Options) { o.Image = "mcr.microsoft.com/a:1" }), map[string]Credential{}},
		"another registry": {with(top(), func(o *Options) { o.Image = "a.example/a:1" }), map[string]Credential{}},
		"from settings": {with(top(), func(o *Options) {
			o.Upstreams, o.Settings = nil, map[string]string{remoteURL: "https://contoso.azurecr.io", "REGISTRY_PROXY_USERNAME": "'u #'''", "REGISTRY_PROXY_PASSWORD": "hunter2"}
		}), map[string]Credential{"registry": {"u #'", "${REGISTRY_PROXY_PASSWORD}", "contoso.azurecr.io"}}},
		"below": {with(bottom(), func(o *Options) { o.Login = "b" }), map[string]Credential{"upstream": {"b", "${UPSTREAM_PASSWORD}", "$upstream:8000"}}},
		"none":  {with(bottom(), func(o *Options) { o.Anonymous = true }), map[string]Credential{}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Generate(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if _, got := readMade(t, r); !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
