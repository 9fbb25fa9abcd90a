package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"

	"registry-module/config"
	"registry-module/iotedge/deployment"
)

// readConfig reads the settings of a config.yml as variables. The configuration has to be
// right, but for files that are there on the device only. What does not make sense in a
// module, or has no place in a manifest, is left out and told.
func (f *deployFlags) readConfig() (map[string]string, error) {
	if f.config == "" {
		return nil, nil
	}
	if err := f.checkConfig(); err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	text, err := os.ReadFile(f.config) // it was read before, and has a size that is right
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var doc yaml.MapSlice
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("--config %s: %w", f.config, err)
	}
	env := map[string]string{}
	f.flatten(env, "", "", doc)
	return env, nil
}

// checkConfig has the configuration checked as the program does it.
func (f *deployFlags) checkConfig() error {
	c, err := config.Load(f.config)
	if err == nil {
		f.notes = append(f.notes, c.Warnings...)
		return nil
	}
	all, ok := errors.AsType[*config.Errors](err)
	if !ok {
		return err
	}
	left := config.Errors{Source: all.Source}
	for _, p := range all.Problems {
		if p.Key != "" && strings.Contains(p.Text, "no such file or directory") {
			if _, out := f.leftOut("http.tls"); !out || !strings.HasPrefix(p.Key, "http.tls.") {
				f.notes = append(f.notes, fmt.Sprintf("%s: the file has to be on the device; it is not here, and was not checked.", p.Key))
			}
			continue
		}
		left.Problems = append(left.Problems, p)
	}
	if len(left.Problems) > 0 {
		return &left
	}
	return nil
}

// leftOut tells whether a key says nothing in a module, and why, unless nobody misses it.
func (f *deployFlags) leftOut(key string) (reason string, out bool) {
	switch key {
	case "version", "log.formatter":
		return "", true
	case "http.addr", "http.net":
		return "the API proxy looks for registry-module at port 8000", true
	case "http.debug.addr", "http.debug.prometheus":
		return "metrics are collected at port 5001", true
	case "http.host":
		return "addresses have to be relative behind API proxies", true
	case "storage.filesystem.rootdirectory":
		return "the volume is mounted at /var/lib/registry", true
	case "http.headers", "notifications", "redis", "log.hooks":
		return "there can be secrets in it", true
	case "http.tls":
		return "the API proxy speaks TLS with clients", !f.o.Direct
	}
	return "", false
}

// isDefault tells whether a key that is left out has the value that counts anyway.
func isDefault(key string, value any) bool {
	switch key {
	case "http.addr":
		return value == config.DefaultAddr
	case "http.debug.addr":
		return value == config.DefaultAdminAddr
	case "storage.filesystem.rootdirectory":
		return value == config.DefaultDataDir
	}
	return false
}

// step is a part of the name of a variable.
var step = regexp.MustCompile(`^[A-Za-z0-9]+$`)

// flatten adds what is in a mapping at key to env. The number is what names of variables end
// in, for a further remote.
func (f *deployFlags) flatten(env map[string]string, key, number string, m yaml.MapSlice) {
	for _, item := range m {
		name := fmt.Sprint(item.Key)
		at := strings.TrimPrefix(key+"."+name, ".")
		reason, out := f.leftOut(at)
		switch {
		case out && reason != "" && item.Value != nil && !isDefault(at, item.Value):
			f.notes = append(f.notes, fmt.Sprintf("%s is left out: %s.", at, reason))
			continue
		case out, item.Value == nil:
			continue
		case !step.MatchString(name):
			f.notes = append(f.notes, fmt.Sprintf("%s is left out: no variable can have its name.", key+".…"))
			continue
		}
		switch value := item.Value.(type) {
		case yaml.MapSlice:
			f.flatten(env, at, number, value)
		case []any:
			if at == "proxy.remotes" {
				for i, remote := range value {
					section, _ := remote.(yaml.MapSlice)
					f.flatten(env, "proxy", "_"+strconv.Itoa(i+2), section)
				}
				continue
			}
			env[variableFor(at)+number] = listText(at, value)
		default:
			f.scalar(env, variableFor(at)+number, value)
		}
	}
}

// scalar adds a value that is neither a list nor a mapping. Secrets do not go into env: a
// placeholder stands for them, and their text is kept as it is.
func (f *deployFlags) scalar(env map[string]string, name string, value any) {
	text := fmt.Sprint(value)
	switch {
	case text == "":
	case deployment.IsSecret(name, text):
		f.secrets[name], env[name] = text, "${"+name+"}"
	default:
		env[name] = scalarText(value)
	}
}

// variableFor is the variable for a key.
func variableFor(key string) string {
	name := "REGISTRY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
	switch name {
	case "REGISTRY_PROXY_PASSWORDFILE", "REGISTRY_PROXY_IDENTITYTOKENFILE":
		name = strings.TrimSuffix(name, "FILE") + "_FILE" // as everybody writes it
	}
	return name
}

// scalarText is a value as a variable has it, which is read as YAML again.
func scalarText(value any) string {
	text, ok := value.(string)
	if !ok {
		return fmt.Sprint(value)
	}
	var again string
	if err := yaml.Unmarshal([]byte(text), &again); err == nil && again == text {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// listText is a list as a variable has it: words, where these can be read as such by all
// that have lists, or YAML, of which JSON is a part.
func listText(key string, values []any) string {
	section, _, _ := strings.Cut(key, ".")
	plain := section == "proxy" || section == "cache" || section == "bundle"
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
		if cmp.Or(words[i], " ") == " " || strings.ContainsAny(words[i], " ,\t\r\n\"'[{") {
			plain = false
		}
	}
	if plain {
		return strings.Join(words, " ")
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(words); err != nil {
		return strings.Join(words, " ") // text is never wrong
	}
	return strings.TrimSuffix(b.String(), "\n")
}
