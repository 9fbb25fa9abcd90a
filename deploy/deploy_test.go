// Package deploy holds samples for those who deploy registry-module, and the
// test that they are right: config.yml is loaded as the program does it, the
// others are read with the parsers and compared with the schemas of the
// programs that they are for.
package deploy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v2"

	"registry-module/config"
	"registry-module/seed"
	"registry-module/seed/source"
)

// load loads a configuration, which must give neither errors nor warnings.
func load(t *testing.T, path string) *config.Config {
	t.Helper()
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Fatalf("%s: warnings: %q", path, c.Warnings)
	}
	return c
}

// TestConfig also checks that the sample shows the defaults, as it says.
func TestConfig(t *testing.T) {
	c := load(t, "config.yml")
	if len(c.Remotes) == 0 || c.Remotes[0].URL.String() != "https://registry-1.docker.io" {
		t.Errorf("the remote is %v", c.Remotes[0].URL)
	}
	t.Setenv("REGISTRY_PROXY_REMOTEURL", c.Remotes[0].URL.String())
	// A file without settings, so that none is looked for.
	empty := t.TempDir() + "/config.yml"
	if err := os.WriteFile(empty, []byte("version: 0.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := load(t, empty)
	if c.Source == d.Source {
		t.Fatal("the sample was compared with itself")
	}
	got, want := settings(c), settings(d)
	if len(got) != len(want) {
		t.Fatalf("the sample has %q where the defaults are %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("the sample has %s where the default is %s", got[i], want[i])
		}
	}
}

// settings has the settings of c with their names, of those of the embedded app
// only the log level.
func settings(c *config.Config) []string {
	own := *c
	own.Source, own.Stock, own.Files = "", nil, nil
	fields := slices.DeleteFunc(strings.Fields(fmt.Sprintf("%+v", own)), func(f string) bool {
		return strings.HasPrefix(f, "doc:") // how it was written
	})
	return append(fields, "Stock.Log.Level:"+string(c.Stock.Log.Level))
}

// TestConfigComments loads the sample with its commented settings, too.
func TestConfigComments(t *testing.T) {
	text, err := os.ReadFile("config.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		// Settings have a colon and no sentence around it.
		before, setting, ok := strings.Cut(line, "# ")
		key, _, isSetting := strings.Cut(strings.TrimSpace(setting), ":")
		if ok && isSetting && !strings.Contains(key, " ") && strings.TrimSpace(before) == "" && key != strings.ToUpper(key) {
			line = before + setting
		}
		b.WriteString(line)
	}
	password := dir + "/password"
	uncommented := strings.NewReplacer("/run/secrets/registry-password", password).Replace(b.String())
	for _, file := range []string{password, dir + "/config.yml"} {
		if err := os.WriteFile(file, []byte(uncommented), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("IOTEDGE_WORKLOADURI", "unix:///run/workload.sock") // for what works in a module only
	_, err = config.Load(dir + "/config.yml")
	// The certificates are not there, and nothing else is wrong.
	for line := range strings.SplitSeq(strings.TrimSpace(errorText(err)), "\n") {
		if strings.HasPrefix(line, "  ") && !strings.Contains(line, "/etc/registry/") {
			t.Error(line)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "REGISTRY_PROXY_CA") {
		t.Errorf("the settings were not uncommented: %v\n%s", err, uncommented)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCompose(t *testing.T) {
	text, err := os.ReadFile("compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image       string
			Build       struct{ Context string }
			Restart     string
			Environment map[string]string
			Ports       []string
			Volumes     []string
			ReadOnly    bool     `yaml:"read_only"`
			CapDrop     []string `yaml:"cap_drop"`
			SecurityOpt []string `yaml:"security_opt"`
		}
		Volumes map[string]any
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	s, ok := file.Services["registry"]
	if !ok || s.Image == "" || !s.ReadOnly {
		t.Fatalf("no usable service registry: %+v", s)
	}
	for name, value := range s.Environment {
		t.Setenv(name, value)
	}
	c := load(t, "")
	if len(c.Remotes) == 0 || c.MaxSize == 0 {
		t.Errorf("the environment gives %+v", c)
	}
	published := strings.Join(s.Ports, " ")
	for _, addr := range []string{c.Addr, c.AdminAddr} {
		if !strings.Contains(published, addr) {
			t.Errorf("port %s is not published: %v", addr, s.Ports)
		}
	}
	volume, dir, _ := strings.Cut(s.Volumes[0], ":")
	if _, declared := file.Volumes[volume]; !declared || dir != c.DataDir {
		t.Errorf("the data directory %s is not on a volume: %v, %v", c.DataDir, s.Volumes, file.Volumes)
	}
	if _, err := os.Stat(s.Build.Context + "/Dockerfile"); err != nil {
		t.Error(err)
	}
}

// decode reads a TOML file into v, which must have all of its keys.
func decode(t *testing.T, path string, v any) {
	t.Helper()
	meta, err := toml.DecodeFile(path, v)
	if err != nil {
		t.Fatal(err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		t.Errorf("%s: unknown keys: %v", path, unknown)
	}
}

func TestContainerd(t *testing.T) {
	if hosts := checkHosts(t, "containerd/hosts.toml"); len(hosts) != 1 {
		t.Fatalf("hosts: %v", hosts)
	}
}

func TestPodman(t *testing.T) {
	var file struct {
		Registry []struct {
			Prefix   string `toml:"prefix"`
			Location string `toml:"location"`
			Mirror   []struct {
				Location string `toml:"location"`
				Insecure bool   `toml:"insecure"`
			} `toml:"mirror"`
		} `toml:"registry"`
	}
	decode(t, "podman/registries.conf", &file)
	if len(file.Registry) != 1 || len(file.Registry[0].Mirror) != 1 {
		t.Fatalf("registries: %+v", file.Registry)
	}
	r := file.Registry[0]
	if r.Prefix != "docker.io" || r.Location != "docker.io" || r.Mirror[0].Location == "" || !r.Mirror[0].Insecure {
		t.Errorf("got %+v", r)
	}
}

// TestSeedFile reads the sample as the server does.
func TestSeedFile(t *testing.T) {
	f, err := os.Open("seed.yml")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	doc, err := source.Read("seed.yml", f, source.Options{
		CheckTags:     func(tags seed.Tags) error { return tags.Validate() },
		CheckSchedule: func(expression string) error { return seed.CheckSchedule([]string{expression}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if doc.Kind != source.SeedFile || len(doc.Wants) != 5 || len(doc.Schedule) != 1 || doc.Prune == nil || len(doc.Warnings) > 0 {
		t.Errorf("read %+v", doc)
	}
	if err := (seed.Job{Wants: doc.Wants}).Validate(); err != nil {
		t.Error(err)
	}
	if w := doc.Wants; w[0].Platforms[0] != "linux/arm64" || w[0].Bare || len(w[3].Platforms) != 2 || !w[3].Bare || !w[4].Loose {
		t.Errorf("wants %+v", w)
	}
}
