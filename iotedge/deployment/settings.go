package deployment

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Names of variables of registry-module that are looked at here.
const (
	remoteURL   = "REGISTRY_PROXY_REMOTEURL"
	proxyPrefix = "REGISTRY_PROXY_"

	// dataDir is where registry-module keeps what it has, in its image.
	dataDir = "/var/lib/registry"
)

// settings are the variables of registry-module on the layer.
func (o Options) settings() map[string]string {
	if !o.runsRegistry() {
		return nil
	}
	// What Azure's log pull can filter by level.
	env := map[string]string{"REGISTRY_LOG_FORMATTER": "iotedge"}
	if o.Direct {
		env["REGISTRY_IOTEDGE_SERVERCERTIFICATE"] = "true"
	}
	if o.Layer == Top {
		for i, u := range o.Upstreams {
			u.settings(i+1, env)
		}
	} else {
		env[remoteURL] = "https://$upstream:" + strconv.Itoa(o.Port)
		env[proxyPrefix+"TRUSTBUNDLE"] = "true"
		if !o.Anonymous {
			env[proxyPrefix+"USERNAME"] = o.login()
			if o.Settings[proxyPrefix+"PASSWORD_FILE"] == "" {
				env[proxyPrefix+"PASSWORD"] = placeholder(upstreamPassword)
			}
		}
		if known := o.namespaces(); len(known) > 0 {
			env[proxyPrefix+"NAMESPACES"] = strings.Join(known, " ")
		}
	}
	maps.Copy(env, o.Settings)
	for name, value := range env {
		if IsSecret(name, value) && !isPlaceholder(value) {
			env[name] = placeholder(name)
		}
	}
	return env
}

// settings puts those of remote number n into env.
func (u Upstream) settings(n int, env map[string]string) {
	number := ""
	if n > 1 {
		number = "_" + strconv.Itoa(n)
	}
	set := func(setting, value string) {
		if value != "" {
			env[proxyPrefix+setting+number] = value
		}
	}
	set("REMOTEURL", u.URL)
	set("ALIAS", u.Alias)
	set("USERNAME", u.Username)
	set("PASSWORD_FILE", u.PasswordFile)
	if u.Username != "" && u.PasswordFile == "" {
		set("PASSWORD", placeholder(proxyPrefix+"PASSWORD"+number))
	}
	switch {
	case u.NotDefault:
		set("DEFAULT", "false")
	case n > 1:
		set("DEFAULT", "true")
	}
}

// login is the name that the layer logs in with at its parent.
func (o Options) login() string {
	if o.Login != "" {
		return o.Login
	}
	return placeholder(upstreamUsername)
}

// remotes are the hosts of the registries that the top has, and their numbers.
func (o Options) remotes() map[string]int {
	hosts := map[string]int{}
	for i, u := range o.Upstreams {
		if host, err := u.host(); err == nil {
			hosts[host] = i + 1
		}
	}
	for n, u := range written(o.Settings) {
		if host, err := u.host(); err == nil {
			hosts[host] = n
		}
	}
	return hosts
}

// namespaces are the hosts of the registries that the top has.
func (o Options) namespaces() []string { return slices.Sorted(maps.Keys(o.remotes())) }

// written are the remotes in settings, by number, without the parent.
func written(settings map[string]string) map[int]Upstream {
	remotes := map[int]Upstream{}
	for name, value := range settings {
		number, ok := strings.CutPrefix(name, remoteURL)
		if !ok || strings.Contains(value, upstreamHost) {
			continue
		}
		n, err := strconv.Atoi(strings.TrimPrefix(number, "_"))
		if number == "" {
			n, err = 1, nil
		}
		if err == nil {
			remotes[n] = Upstream{URL: value, Alias: settings[proxyPrefix+"ALIAS"+number]}
		}
	}
	return remotes
}

// Below turns settings of the top into those of a layer whose remote is its parent: without
// what is for the remotes of the top, which are returned as such. Settings whose remote is
// the parent already stay as they are.
func Below(settings map[string]string) (map[string]string, []Upstream) {
	if strings.Contains(settings[remoteURL], upstreamHost) {
		return settings, nil
	}
	var upstreams []Upstream
	remotes := written(settings)
	for _, n := range slices.Sorted(maps.Keys(remotes)) {
		upstreams = append(upstreams, remotes[n])
	}
	rest := maps.Clone(settings)
	maps.DeleteFunc(rest, func(name, _ string) bool {
		// Two of these are for all remotes.
		return strings.HasPrefix(name, proxyPrefix) && !strings.HasPrefix(name, proxyPrefix+"OFFLINE") && name != proxyPrefix+"CACHEWRITETIMEOUT"
	})
	return rest, upstreams
}

// IsSecret tells whether the value of a REGISTRY_* variable may not be in a manifest, which
// IoT Hub shows to everybody who may read twins. The path of a file is no secret.
func IsSecret(name, value string) bool {
	if name == "" || strings.HasPrefix(name, "REGISTRY_NOTIFICATIONS") || strings.HasPrefix(name, "REGISTRY_REDIS") ||
		strings.HasPrefix(name, "REGISTRY_HTTP_HEADERS") || strings.HasPrefix(name, "REGISTRY_LOG_HOOKS") {
		return true
	}
	name = strings.TrimRight(name, "_0123456789")
	if strings.HasSuffix(name, "FILE") {
		return false
	}
	for _, part := range []string{"PASSWORD", "SECRET", "TOKEN", "ACCOUNTKEY", "ACCESSKEY", "PRIVATEKEY", "CREDENTIALS", "_EXEC"} {
		if strings.Contains(name, part) && !strings.HasPrefix(name, "REGISTRY_AUTH_TOKEN_") {
			return true
		}
	}
	_, user, found := strings.Cut(value, "://")
	authority, _, _ := strings.Cut(user, "/")
	return found && strings.Contains(authority, "@")
}

// isFile tells whether a variable has the path of a file that has to be on the device.
func isFile(name string) bool {
	name = strings.TrimRight(name, "_0123456789")
	for _, end := range []string{"FILE", "_CA", "_CERTIFICATE", "_KEY", "_CLIENTCAS", "_CRLS", "_TRUSTKEYS", "DOCKERCONFIG",
		"_HTPASSWD_PATH", "_ACCESS_POLICY", "_ROOTCERTBUNDLE", "_JWKS"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// mounts returns the directories of the host that registry-module reads files in, for
// itself at the same paths.
func mounts(env map[string]string) ([]string, error) {
	var dirs []string
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !isFile(name) || isPlaceholder(env[name]) {
			continue
		}
		for _, file := range strings.FieldsFunc(env[name], func(r rune) bool { return strings.ContainsRune(`[]", `, r) }) {
			file = path.Clean(file)
			dir := path.Dir(file)
			switch {
			case !path.IsAbs(file):
				errs = append(errs, fmt.Errorf("%s: %q is to be a path on the device: begin it with /", name, file))
			case strings.Contains(file, ":"):
				errs = append(errs, fmt.Errorf("%s: %q has a colon, with which it cannot be mounted: write another path", name, file))
			case dir == dataDir || strings.HasPrefix(dir, dataDir+"/"):
				// That is on the volume.
			case strings.Count(dir, "/") < 2 || slices.Contains([]string{"/etc/ssl", "/etc/ssl/certs", "/var/lib", "/var/run", "/usr/lib"}, dir):
				errs = append(errs, fmt.Errorf("%s: all of %s would have to be mounted for %q: put the file into a directory of its own, for example /etc/registry-module", name, dir, file))
			default:
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), errors.Join(errs...)
}
