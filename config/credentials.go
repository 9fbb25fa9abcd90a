package config

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// kind is a kind of credentials, of which a setting is set.
type kind struct{ setting, value string }

// kinds returns the kinds of credentials that are set.
func (s *remoteSection) kinds() []kind {
	var kinds []kind
	switch {
	case s.Username != "":
		kinds = append(kinds, kind{"username", s.Username})
	case s.Password != "":
		kinds = append(kinds, kind{"password", ""})
	case s.PasswordFile != "":
		kinds = append(kinds, kind{"passwordfile", s.PasswordFile})
	}
	switch {
	case s.IdentityToken != "":
		kinds = append(kinds, kind{"identitytoken", ""})
	case s.IdentityTokenFile != "":
		kinds = append(kinds, kind{"identitytokenfile", s.IdentityTokenFile})
	}
	if s.DockerConfig != "" {
		kinds = append(kinds, kind{"dockerconfig", s.DockerConfig})
	}
	if s.Exec != nil {
		kinds = append(kinds, kind{"exec.command", ""})
	}
	return kinds
}

// credentials reads where credentials come from. Of files it is checked that they
// are there: what they hold can change, so it is read where it is used.
func (r remoteReader) credentials() Credentials {
	s := r.section
	c := Credentials{
		Username:          s.Username,
		Password:          Secret(s.Password),
		PasswordFile:      s.PasswordFile,
		IdentityToken:     Secret(s.IdentityToken),
		IdentityTokenFile: s.IdentityTokenFile,
		DockerConfig:      s.DockerConfig,
	}
	kinds := s.kinds()
	switch hasPassword := s.Password != "" || s.PasswordFile != ""; {
	case len(kinds) > 1:
		for _, k := range kinds[1:] {
			r.bad(k.setting, k.value, "is set, and %s too: keep only one kind of credentials", r.named(kinds[0].setting))
		}
	case s.Username != "" && !hasPassword:
		r.bad("password", "", "is missing, but %s is set: set it or %s, or remove the username for anonymous access",
			r.named("username"), r.named("passwordfile"))
	case s.Username == "" && hasPassword:
		r.bad("username", "", "is missing, but a password is set: set it, or remove the password for anonymous access")
	}
	r.secretFile("passwordfile", s.PasswordFile, "password", s.Password)
	r.secretFile("identitytokenfile", s.IdentityTokenFile, "identitytoken", s.IdentityToken)
	if s.DockerConfig != "" {
		r.dockerConfig()
	}
	if s.Exec != nil {
		c.Command, c.CommandLifetime = s.Exec.Command, s.Exec.Lifetime
		if c.Command == "" {
			r.bad("exec.command", "", "is missing, but %s is set: write the command that prints credentials", r.named("exec.lifetime"))
		}
		if c.CommandLifetime != nil {
			r.loader.notNegative(r.at("exec.lifetime"), *c.CommandLifetime)
		}
	}
	return c
}

// secretFile checks the file of a secret that can also be set by itself.
func (r remoteReader) secretFile(setting, path, direct, value string) {
	if path == "" {
		return
	}
	if value != "" {
		r.bad(setting, path, "is set, and %s too: keep only one of them", r.named(direct))
		return
	}
	// Editors and shells end a file with a line break, which is not meant.
	if text, ok := r.loader.readable(r.at(setting), path); ok && strings.TrimRight(string(text), "\r\n") == "" {
		r.bad(setting, path, "is empty: write the %s into it", direct)
	}
}

// dockerConfig checks that there is a Docker config.json.
func (r remoteReader) dockerConfig() {
	text, ok := r.loader.readable(r.at("dockerconfig"), r.section.DockerConfig)
	if !ok {
		return
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil || object == nil {
		r.bad("dockerconfig", r.section.DockerConfig, "is not a Docker configuration: write the path of a config.json, as docker login makes it")
	}
}

// Credentials say where those for a remote come from. At most one kind is set:
// username and password, an identity token, a Docker configuration, or a
// command.
type Credentials struct {
	// Username goes with Password, or with what PasswordFile holds.
	Username     string
	Password     Secret
	PasswordFile string
	// IdentityToken is what the remote's token service exchanges for access
	// tokens (OAuth 2.0 refresh token), or is in IdentityTokenFile.
	IdentityToken     Secret
	IdentityTokenFile string
	// DockerConfig is the path of a Docker config.json, whose auths, credHelpers
	// and credsStore are used.
	DockerConfig string
	// Command prints credentials, as proxy.exec.command of the stock registry.
	Command string
	// CommandLifetime is how long what Command has printed is used: for good
	// where it is nil, not at all where it is 0.
	CommandLifetime *time.Duration
}

// Secret is text that is not to be printed: formatting shows a placeholder.
// Convert it to a string to use it.
type Secret string

// Format implements [fmt.Formatter], so that no verb prints the secret.
func (s Secret) Format(f fmt.State, _ rune) {
	if s != "" {
		// A Formatter has no way to report that writing has failed.
		_, _ = io.WriteString(f, "REDACTED")
	}
}

// MarshalText keeps the secret out of JSON and the like.
func (s Secret) MarshalText() ([]byte, error) {
	return fmt.Append(nil, s), nil
}
