package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/docker/cli/cli/config/configfile"
	dockercreds "github.com/docker/cli/cli/config/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
)

// dockerConfig are the credentials that a Docker config.json has for a host.
//
// Reading the file and converting its keys is Docker's own; running helpers is not,
// because Docker does that without a bound, and repeats what they write.
type dockerConfig struct {
	file file[*configfile.ConfigFile]
	keys []string // under which the host may be found, the best first

	mu     sync.Mutex
	helper *helperEntry // the one that was used last
}

// helperEntry is a helper with what it has to be asked for.
type helperEntry struct {
	name    string
	servers []string
	*reused
}

func newDockerConfig(path, host string) *dockerConfig {
	return &dockerConfig{
		file: file[*configfile.ConfigFile]{what: "the Docker configuration", path: path, parse: parseDockerConfig},
		keys: dockerKeys(host),
	}
}

// dockerKeys are the names that a registry goes by in a Docker configuration.
func dockerKeys(host string) []string {
	switch host {
	case "registry-1.docker.io", "index.docker.io", "docker.io":
		// `docker login` stores what it gets for Docker Hub under the first.
		return []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"}
	}
	if u, err := url.Parse("//" + host); err == nil && u.Host == host && host != "" && u.Port() == "" {
		// Who has logged in with the port that https has anyway.
		return []string{host, host + ":443"}
	}
	return []string{host}
}

// hostOfKey returns the host whose log-in a key of a Docker configuration is for, empty
// for none. Beside hosts, old versions of Docker have stored URLs of their API. There are
// keys with other paths as well, which are no log-ins for all of a host: Podman's for
// quay.io/org, and those of Docker that end with /refresh-token and /access-token.
func hostOfKey(key string) string {
	rest := key
	if _, after, ok := strings.Cut(key, "://"); ok {
		rest = after
	}
	_, path, _ := strings.Cut(rest, "/")
	switch strings.Trim(path, "/") {
	case "", "v1", "v2":
		return dockercreds.ConvertToHostname(key)
	}
	return ""
}

func parseDockerConfig(content []byte) (*configfile.ConfigFile, error) {
	config := configfile.New("")
	if err := config.LoadFromReader(bytes.NewReader(content)); err != nil {
		// Other errors of the decoder repeat values.
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, fmt.Errorf("it is not JSON, or incomplete, at byte %d", syntax.Offset)
		}
		return nil, errors.New("it is not a Docker configuration, or incomplete: a value is of the wrong type, or an auth is not user:password in base64")
	}
	return config, nil
}

// entry is what a Docker configuration has for a host.
type entry struct {
	// config is what it says itself.
	config authn.AuthConfig
	// helper is who is to be asked, empty for nobody, and servers for what, the
	// best first.
	helper  string
	servers []string
}

func (d *dockerConfig) entry() (entry, error) {
	config, err := d.file.read()
	if err != nil {
		return entry{}, err
	}
	return lookUp(config, d.keys), nil
}

func lookUp(config *configfile.ConfigFile, keys []string) entry {
	e := entry{config: storedIn(config, keys), helper: config.CredentialsStore, servers: keys[:1:1]}
	for _, key := range keys[1:] {
		// Docker leaves an empty auth behind for what it has given to a helper.
		if _, ok := config.AuthConfigs[key]; ok {
			e.servers = append(e.servers, key)
		}
	}
	for _, key := range keys {
		// An empty name is that of none, though there is one for all others.
		if helper, ok := config.CredentialHelpers[key]; ok {
			e.helper, e.servers = helper, slices.Compact([]string{keys[0], key})
			break
		}
	}
	return e
}

// storedIn returns what config has itself under one of keys.
func storedIn(config *configfile.ConfigFile, keys []string) authn.AuthConfig {
	get := func(name string) authn.AuthConfig {
		a := config.AuthConfigs[name]
		return authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	}
	for _, key := range keys {
		if found := get(key); found != (authn.AuthConfig{}) {
			return found
		}
	}
	names := slices.Sorted(maps.Keys(config.AuthConfigs))
	for _, key := range keys {
		for _, name := range names {
			if found := get(name); hostOfKey(name) == key && found != (authn.AuthConfig{}) {
				return found
			}
		}
	}
	return authn.AuthConfig{}
}

// ask returns the helper of e. Answers are kept for as long as it is the same.
func (d *dockerConfig) ask(e entry) *reused {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.helper == nil || d.helper.name != e.helper || !slices.Equal(d.helper.servers, e.servers) {
		run := newHelper(e.helper)
		d.helper = &helperEntry{e.helper, e.servers, newReused(helperLifetime, func(ctx context.Context) (authn.AuthConfig, error) {
			for _, server := range e.servers {
				config, err := run.get(ctx, server)
				if err != nil || config != (authn.AuthConfig{}) {
					return config, err
				}
			}
			return authn.AuthConfig{}, nil
		})}
	}
	return d.helper.reused
}

func (d *dockerConfig) get(ctx context.Context) (authn.AuthConfig, error) {
	e, err := d.entry()
	if err != nil || e.helper == "" {
		return e.config, err
	}
	config, err := d.ask(e).get(ctx)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	// The only thing that Docker does not leave to the helper.
	config.RegistryToken = e.config.RegistryToken
	return config, nil
}

func (d *dockerConfig) stale() error { return d.file.stale() }

func (d *dockerConfig) renew(rejected authn.AuthConfig) bool {
	e, err := d.entry()
	if err != nil || e.helper == "" {
		return err == nil && e.config != rejected
	}
	if rejected.RegistryToken != e.config.RegistryToken {
		return true
	}
	rejected.RegistryToken = ""
	return d.ask(e).renew(rejected)
}
