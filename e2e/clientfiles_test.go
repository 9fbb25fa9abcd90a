package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v4"

	"registry-module/e2e/lab"
)

// snippet is a part of docs/clients.md: what is between two headings.
type snippet struct {
	client, way string            // the headings
	files       map[string]string // by path, or by what else stands behind the kind
	commands    []string          // the lines of shell
}

func (s snippet) name() string { return s.client + "/" + s.way }

// snippets reads docs/clients.md. A fenced block is of a kind, and has the path of the
// file that it is.
func snippets(t *testing.T) (all []snippet) {
	t.Helper()
	var at *snippet
	var kind, path string
	var block strings.Builder
	client := ""
	for line := range strings.Lines(string(must(os.ReadFile("../docs/clients.md"))(t))) {
		trimmed := strings.TrimSpace(line)
		if info, fence := strings.CutPrefix(trimmed, "```"); fence {
			if kind == "" {
				kind, path, _ = strings.Cut(info, " ")
				continue
			}
			switch {
			case kind == "sh" && path == "":
				at.commands = append(at.commands, strings.Split(strings.TrimSpace(block.String()), "\n")...)
			case path == "" || at.files[path] != "":
				t.Fatalf("%s: a block of %q for %q", at.name(), kind, path)
			default:
				at.files[path] = block.String()
			}
			kind = ""
			block.Reset()
			continue
		}
		if kind != "" {
			block.WriteString(line)
			continue
		}
		way, sub := strings.CutPrefix(trimmed, "### ")
		name, top := strings.CutPrefix(trimmed, "## ")
		if top {
			client = name
		}
		if top || sub {
			all = append(all, snippet{client: client, way: way, files: map[string]string{}})
			at = &all[len(all)-1]
			if top {
				at.way = ""
			}
		}
	}
	return slices.DeleteFunc(all, func(s snippet) bool { return len(s.files)+len(s.commands) == 0 })
}

// TestClientFiles parses each file that docs/clients.md has, strictly, as the program does
// that it is for, and lets the shell read the commands.
func TestClientFiles(t *testing.T) {
	files := 0
	for _, s := range snippets(t) {
		t.Run(s.name(), func(t *testing.T) {
			for path, text := range s.files {
				files++
				if err := parseClientFile(path, text); err != nil {
					t.Errorf("%s: %v", path, err)
				}
				if err := parseClientFile(path, strings.Replace(text, "a", "unknown", 1)+"unknown"); err == nil {
					t.Errorf("%s is accepted with errors in it, too", path)
				}
			}
			for _, line := range s.commands {
				must(lab.Run(t.Context(), ".", nil, "/bin/sh", "-nc", line))(t)
				if !strings.Contains(line, "gateway") && !strings.Contains(line, "3.22") && !strings.Contains(line, "1.5") && !strings.HasPrefix(line, "export ") && !strings.HasPrefix(line, "chmod ") {
					t.Errorf("%q names no image, and not the gateway", line)
				}
			}
		})
	}
	if files < 12 {
		t.Errorf("docs/clients.md has only %d files", files)
	}
}

func parseClientFile(path, text string) error {
	hosts := func(urls ...string) error {
		for _, s := range urls {
			if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return fmt.Errorf("%q is no URL: %v", s, err)
			}
		}
		return nil
	}
	switch {
	case path == "/etc/docker/daemon.json":
		var file struct {
			Insecure []string `json:"insecure-registries"`
			Mirrors  []string `json:"registry-mirrors"`
		}
		if err := strictJSON(text, &file); err != nil {
			return err
		}
		return hosts(file.Mirrors...)
	case path == "registryCredentials":
		var file map[string]struct{ Address, Username, Password string }
		return strictJSON(text, &file)
	case filepath.Base(path) == "hosts.toml":
		var file struct {
			Server string `toml:"server"`
			Host   map[string]struct {
				Capabilities []string          `toml:"capabilities"`
				CA           string            `toml:"ca"`
				Header       map[string]string `toml:"header"`
			} `toml:"host"`
		}
		if err := strictTOML(text, &file); err != nil {
			return err
		}
		for host := range file.Host {
			if err := hosts(file.Server, host); err != nil {
				return err
			}
		}
		return nil
	case path == "/etc/containerd/config.toml":
		var file struct {
			Version int `toml:"version"`
			Plugins map[string]struct {
				Registry struct {
					ConfigPath string `toml:"config_path"`
				} `toml:"registry"`
			} `toml:"plugins"`
		}
		if err := strictTOML(text, &file); err != nil {
			return err
		}
		name := map[int]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}[file.Version]
		if file.Plugins[name].Registry.ConfigPath == "" {
			return fmt.Errorf("version %d has no path for %s", file.Version, name)
		}
		return nil
	case strings.HasPrefix(path, "/etc/containers/registries.conf.d/"):
		var file struct {
			Registry []struct {
				Prefix   string `toml:"prefix"`
				Location string `toml:"location"`
				Insecure bool   `toml:"insecure"`
				Mirror   []struct {
					Location string `toml:"location"`
					Insecure bool   `toml:"insecure"`
				} `toml:"mirror"`
			} `toml:"registry"`
		}
		return strictTOML(text, &file)
	case strings.HasPrefix(path, "/etc/crio/crio.conf.d/"):
		var file struct {
			Crio struct {
				Image struct {
					GlobalAuthFile string `toml:"global_auth_file"`
				} `toml:"image"`
			} `toml:"crio"`
		}
		return strictTOML(text, &file)
	case path == "/etc/rancher/k3s/registries.yaml":
		var file struct {
			Mirrors map[string]struct{ Endpoint []string }
			Configs map[string]struct {
				Auth struct{ Username, Password string }
				TLS  struct {
					CAFile string `yaml:"ca_file"`
				}
			}
		}
		d := yaml.NewDecoder(strings.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&file); err != nil {
			return err
		}
		for _, m := range file.Mirrors {
			if err := hosts(m.Endpoint...); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("nothing here knows %q", path)
}

func strictTOML(text string, v any) error {
	meta, err := toml.Decode(text, v)
	if err == nil && len(meta.Undecoded()) > 0 {
		err = fmt.Errorf("unknown keys %v", meta.Undecoded())
	}
	return err
}

func strictJSON(text string, v any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more behind its end: %v", err)
	}
	return nil
}
