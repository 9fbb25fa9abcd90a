package deployment

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Placeholders for what Azure or the parent has given.
const (
	upstreamUsername = "UPSTREAM_USERNAME"
	upstreamPassword = "UPSTREAM_PASSWORD"
	blobAccount      = "BLOB_ACCOUNT_NAME"
	blobKey          = "BLOB_ACCOUNT_KEY"
	hubResource      = "IOTHUB_RESOURCE_ID"
	workspaceID      = "LOG_ANALYTICS_WORKSPACE_ID"
	workspaceKey     = "LOG_ANALYTICS_SHARED_KEY"
	connectionString = "DEVICE_CONNECTION_STRING"
)

// Placeholder is what stands for a value that is to be filled in.
type Placeholder struct {
	// Name is without the braces.
	Name string `json:"name"`
	// Meaning says what to write.
	Meaning string `json:"meaning"`
	// Files are those that have it.
	Files []string `json:"files"`
}

// placeholder is what stands for a value that is to be filled in.
func placeholder(name string) string { return "${" + name + "}" }

// isPlaceholder tells whether value is one placeholder and nothing else.
func isPlaceholder(value string) bool {
	return strings.HasPrefix(value, "${") && strings.IndexByte(value, '}') == len(value)-1
}

// Placeholders returns the names of all placeholders in a file, in order, once each.
func Placeholders(content []byte) []string {
	var names []string
	for _, found := range inBraces.FindAll(content, -1) {
		names = append(names, string(found[2:len(found)-1]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// findPlaceholders lists what is to be filled in.
func (r *Result) findPlaceholders(o Options) {
	files := map[string][]string{}
	for _, f := range r.Files {
		if f.Executable {
			continue // braces in it are the shell's
		}
		for _, name := range Placeholders(f.Content) {
			files[name] = append(files[name], f.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		r.Placeholders = append(r.Placeholders, Placeholder{name, o.meaning(name), files[name]})
	}
}

// meaning says what to write for a placeholder.
func (o Options) meaning(name string) string {
	switch name {
	case upstreamUsername:
		return "the name that this layer logs in with at its parent"
	case upstreamPassword:
		return "the password that this layer logs in with at its parent"
	case blobAccount:
		return "a name of your own for the local storage account: 3 to 24 lower-case letters and digits"
	case blobKey:
		return "a key of your own for the local storage account: 64 random bytes in base64, as `openssl rand -base64 64` prints them, in one line"
	case hubResource:
		return "the resource ID of the IoT hub, which the portal has on its page Properties"
	case workspaceID:
		return "the ID of the Log Analytics workspace"
	case workspaceKey:
		return "the primary key of the Log Analytics workspace"
	case connectionString:
		return "the connection string of the device in IoT Hub"
	}
	if number, ok := strings.CutPrefix(name, proxyPrefix+"PASSWORD"); ok {
		if host, err := (Upstream{URL: o.settings()[remoteURL+number]}).host(); err == nil {
			return fmt.Sprintf("the password of %s at %s", yamlValue(o.settings()[proxyPrefix+"USERNAME"+number]), host)
		}
	}
	if IsSecret(name, "") {
		return "the value of this variable of registry-module"
	}
	return "a value of your own, which was a placeholder in what was given"
}

// plainYAML is text that YAML takes as it is.
var plainYAML = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9/+=._-]*$`)

// Fill fills in placeholders for which lookup has a value, so that secrets are in the files
// in clear. What it has filled in is no placeholder any more.
func (r *Result) Fill(lookup func(name string) (value string, ok bool)) error {
	var left []Placeholder
	for _, p := range r.Placeholders {
		value, ok := lookup(p.Name)
		if !ok || value == "" {
			left = append(left, p)
			continue
		}
		quoted, err := tomlString(value) // which is JSON, too
		if err != nil {
			return err
		}
		asYAML, err := tomlString(yamlText(value))
		if err != nil {
			return err
		}
		in := []byte(`"` + placeholder(p.Name) + `"`)
		for i := range r.Files {
			f := &r.Files[i]
			if !slices.Contains(p.Files, f.Name) {
				continue
			}
			if p.Name == upstreamUsername || p.Name == upstreamPassword || strings.HasPrefix(p.Name, "REGISTRY_") {
				// registry-module reads its variables as YAML.
				f.Content = bytes.ReplaceAll(f.Content, append([]byte(`"value": `), in...), []byte(`"value": `+asYAML))
			}
			f.Content = bytes.ReplaceAll(f.Content, in, []byte(quoted))
			f.Secret = true
		}
	}
	r.Placeholders = left
	return r.describe()
}

// yamlText is value as YAML takes it for text.
func yamlText(value string) string {
	if plainYAML.MatchString(value) && !strings.EqualFold(value, "null") {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}

// yamlValue is the text that a variable of registry-module stands for: the reverse of
// yamlText, for those who do not read it as YAML.
func yamlValue(text string) string {
	if n := len(text); n >= 2 && text[0] == '\'' && text[n-1] == '\'' {
		return strings.ReplaceAll(text[1:n-1], "''", "'")
	}
	var value string
	if strings.HasPrefix(text, `"`) && json.Unmarshal([]byte(text), &value) == nil {
		return value
	}
	return text
}
