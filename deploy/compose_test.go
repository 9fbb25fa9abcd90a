package deploy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// playgroundService is a service of the playground. Networks are a list, or a map with
// settings.
type playgroundService struct {
	Environment map[string]string
	Networks    any
	Ports       []string
	Volumes     []string
	StopGrace   string `yaml:"stop_grace_period"`
}

func (s playgroundService) networks() (names []string) {
	switch n := s.Networks.(type) {
	case []any:
		for _, name := range n {
			names = append(names, name.(string))
		}
	case map[string]any:
		for name := range n {
			names = append(names, name)
		}
	}
	return names
}

// TestPlayground checks what the files of the playground say; e2e starts it.
func TestPlayground(t *testing.T) {
	internal := map[string]bool{}
	modules := 0
	for _, path := range []string{"compose/compose.yml", "compose/compose.cache.yml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// What can be set has a default.
		text = regexp.MustCompile(`\$\{[A-Z0-9_]+:-([^}]*)\}`).ReplaceAll(text, []byte("$1"))
		var file struct {
			Services map[string]playgroundService
			Networks map[string]struct{ Internal bool }
			Volumes  map[string]any
		}
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for name, network := range file.Networks {
			internal[name] = network.Internal
		}
		for name, s := range file.Services {
			for _, network := range s.networks() {
				if open, ok := internal[network]; !ok {
					t.Errorf("%s: %s is in the network %s, which is nowhere", path, name, network)
				} else if !open && name != "registry" && (name != "bottom-proxy" || network != "bottom") {
					t.Errorf("%s: %s is in the network %s, which leads outside", path, name, network)
				}
			}
			for _, port := range s.Ports {
				if !strings.HasPrefix(port, "127.0.0.1:") || name != "bottom-proxy" {
					t.Errorf("%s: %s publishes %s", path, name, port)
				}
			}
			for _, v := range s.Volumes {
				from, _, _ := strings.Cut(v, ":")
				_, declared := file.Volumes[from]
				if strings.HasPrefix(from, "./nginx/") {
					_, err := os.Stat("compose/" + from)
					declared = err == nil
				}
				if !declared && !strings.HasPrefix(from, "./certificates/") {
					t.Errorf("%s: %s mounts %s, which is not there", path, name, from)
				}
			}
			if len(s.Environment) == 0 {
				continue
			}
			modules++
			t.Run(name, func(t *testing.T) {
				for key, value := range s.Environment {
					if key != "REGISTRY_PROXY_CA" { // a file that is there in the container only
						t.Setenv(key, value)
					}
				}
				if c := load(t, ""); len(c.Remotes) == 0 || c.MaxSize == 0 || c.Addr != ":8000" || s.StopGrace != "30s" {
					t.Errorf("the environment gives %+v, stopped after %s", c, s.StopGrace)
				}
			})
		}
	}
	if modules != 2 {
		t.Errorf("%d modules, want 2", modules)
	}
}
