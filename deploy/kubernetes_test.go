package deploy

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"registry-module/config"
)

// object is a Kubernetes object, as far as its parts have to fit each other. That it is
// one at all is tested in e2e, with the types of the API.
type object struct {
	Kind     string
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Data map[string]string
	Spec struct {
		ServiceName string         `yaml:"serviceName"`
		Replicas    int            `yaml:"replicas"`
		Selector    map[string]any `yaml:"selector"`
		PodSelector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		} `yaml:"podSelector"`
		Ports []struct {
			Name       string
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		Ingress, Egress []struct{ Ports []struct{ Port any } }
		Template        struct {
			Metadata struct{ Labels map[string]string }
			Spec     pod
		}
		VolumeClaimTemplates []struct {
			Metadata struct{ Name string }
			Spec     struct {
				Resources struct{ Requests struct{ Storage string } }
			}
		} `yaml:"volumeClaimTemplates"`
	}
}

type pod struct {
	TerminationGracePeriodSeconds int   `yaml:"terminationGracePeriodSeconds"`
	EnableServiceLinks            *bool `yaml:"enableServiceLinks"`
	Containers                    []struct {
		Args  []string
		Ports []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		StartupProbe   probe `yaml:"startupProbe"`
		LivenessProbe  probe `yaml:"livenessProbe"`
		ReadinessProbe probe `yaml:"readinessProbe"`
		VolumeMounts   []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	Volumes []struct {
		Name      string
		ConfigMap struct{ Name string } `yaml:"configMap"`
	}
}

type probe struct {
	HTTPGet struct {
		Path, Port string
	} `yaml:"httpGet"`
}

// objects reads a file of Kubernetes objects.
func objects(t *testing.T, path string) (all []object) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// ofKind returns the object of a kind and name.
func ofKind(t *testing.T, all []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(all, func(o object) bool { return o.Kind == kind && o.Metadata.Name == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return all[i]
}

// TestKubernetes checks that what refers to something in the manifests finds it, and that
// the program takes what they give to it.
func TestKubernetes(t *testing.T) {
	all := objects(t, "kubernetes/registry-module.yml")
	set := ofKind(t, all, "StatefulSet", "registry-module")
	p := set.Spec.Template.Spec
	c := p.Containers[0]

	// The configuration is the one that the program is started with.
	var file string
	mounts := map[string]string{}
	for _, m := range c.VolumeMounts {
		mounts[m.Name] = m.MountPath
	}
	volumes := map[string]bool{}
	for _, v := range p.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap.Name != "" {
			for name, text := range ofKind(t, all, "ConfigMap", v.ConfigMap.Name).Data {
				if mounts[v.Name]+"/"+name == c.Args[1] {
					file = text
				}
			}
		}
	}
	if c.Args[0] != "serve" || file == "" {
		t.Fatalf("the arguments %q lead to no configuration", c.Args)
	}
	conf := loadText(t, file)

	for _, v := range set.Spec.VolumeClaimTemplates {
		volumes[v.Metadata.Name] = true
		room, err := config.ParseSize(v.Spec.Resources.Requests.Storage + "B")
		if err != nil {
			t.Fatal(err)
		}
		if conf.MaxSize == 0 || conf.MaxSize > room*9/10 {
			t.Errorf("cache.maxsize is %d, and the volume has %d", conf.MaxSize, room)
		}
		if mounts[v.Metadata.Name] != conf.DataDir {
			t.Errorf("the claim is at %s, and the data directory at %s", mounts[v.Metadata.Name], conf.DataDir)
		}
	}
	if got, want := slices.Sorted(maps.Keys(mounts)), slices.Sorted(maps.Keys(volumes)); !slices.Equal(got, want) {
		t.Errorf("mounted are %q of the volumes %q", got, want)
	}

	ports := map[string]int{}
	for _, port := range c.Ports {
		ports[port.Name] = port.ContainerPort
	}
	if want := map[string]int{"registry": 8000, "admin": 5001}; conf.Addr != ":8000" || conf.AdminAddr != ":5001" || !maps.Equal(ports, want) {
		t.Errorf("the program listens at %s and %s, and the pod has %v", conf.Addr, conf.AdminAddr, ports)
	}
	for name, p := range map[string]probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if p.HTTPGet.Path != "/healthz" || p.HTTPGet.Port != "admin" {
			t.Errorf("the %s probe asks %+v", name, p.HTTPGet)
		}
	}

	labels := set.Spec.Template.Metadata.Labels
	selected := func(kind string, selector map[string]string) {
		t.Helper()
		if len(selector) == 0 {
			t.Errorf("the %s selects everything", kind)
		}
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("the %s selects %s=%s, and the pod has %v", kind, key, value, labels)
			}
		}
	}
	for _, o := range all {
		switch o.Kind {
		case "Service":
			selector := map[string]string{}
			for key, value := range o.Spec.Selector {
				selector[key], _ = value.(string)
			}
			selected("service "+o.Metadata.Name, selector)
			for _, port := range o.Spec.Ports {
				if ports[port.TargetPort] != port.Port {
					t.Errorf("the service %s leads from %d to %s of %v", o.Metadata.Name, port.Port, port.TargetPort, ports)
				}
			}
		case "StatefulSet":
			selector := map[string]string{}
			matched, _ := o.Spec.Selector["matchLabels"].(map[string]any)
			for key, value := range matched {
				selector[key], _ = value.(string)
			}
			selected("set", selector)
			ofKind(t, all, "Service", o.Spec.ServiceName)
		case "NetworkPolicy":
			selected("network policy", o.Spec.PodSelector.MatchLabels)
			for _, rule := range o.Spec.Ingress {
				for _, port := range rule.Ports {
					if name, _ := port.Port.(string); ports[name] == 0 {
						t.Errorf("the network policy is for the port %v of %v", port.Port, ports)
					}
				}
			}
		}
	}
	if set.Spec.Replicas != 1 || p.TerminationGracePeriodSeconds < 30 || p.EnableServiceLinks == nil || *p.EnableServiceLinks {
		t.Errorf("replicas %d, grace period %d s, service links %v", set.Spec.Replicas, p.TerminationGracePeriodSeconds, p.EnableServiceLinks)
	}
}

// loadText loads a configuration, which must give neither errors nor warnings.
func loadText(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(t, path)
}

// TestKubernetesNodes checks that the engines of the nodes are told of the port that the
// service has, for registries that are configured.
func TestKubernetesNodes(t *testing.T) {
	conf := loadText(t, ofKind(t, objects(t, "kubernetes/registry-module.yml"), "ConfigMap", "registry-module").Data["config.yml"])
	known := map[string]bool{}
	for _, r := range conf.Remotes {
		known[strings.Replace(r.URL.Host, "registry-1.docker.io", "docker.io", 1)] = true
	}
	const node = "http://192.0.2.10:30800"
	seen := map[string]bool{}
	err := filepath.WalkDir("kubernetes/containerd", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		hosts := checkHosts(t, path)
		registry := filepath.Base(filepath.Dir(path))
		seen[registry] = true
		if !known[registry] || !reflect.DeepEqual(hosts, []string{node}) {
			t.Errorf("%s is for %s at %q; known are %v", path, registry, hosts, known)
		}
		return nil
	})
	if err != nil || len(seen) != 2 {
		t.Errorf("files for %v: %v", seen, err)
	}

	var file k3s
	text, err := os.ReadFile("kubernetes/k3s/registries.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decodeYAML(t, "registries.yaml", text, &file)
	if len(file.Mirrors) != len(known) {
		t.Errorf("mirrors are %v; known are %v", file.Mirrors, known)
	}
	for registry, mirror := range file.Mirrors {
		if !known[registry] || !slices.Equal(mirror.Endpoint, []string{node}) {
			t.Errorf("%s is mirrored at %v; known are %v", registry, mirror.Endpoint, known)
		}
	}
}

// k3s is registries.yaml as k3s reads it.
type k3s struct {
	Mirrors map[string]struct {
		Endpoint []string
		Rewrite  map[string]string
	}
	Configs map[string]struct {
		Auth struct {
			Username, Password string
			Auth               string
			IdentityToken      string `yaml:"identity_token"`
		}
		TLS struct {
			CAFile             string `yaml:"ca_file"`
			CertFile           string `yaml:"cert_file"`
			KeyFile            string `yaml:"key_file"`
			InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
		}
	}
}

// decodeYAML reads YAML into v, which must have all of its keys.
func decodeYAML(t *testing.T, name string, text []byte, v any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// checkHosts reads a hosts.toml, and returns the hosts in it, which must be URLs.
func checkHosts(t *testing.T, path string) (hosts []string) {
	t.Helper()
	var file hostsFile
	decode(t, path, &file)
	return file.check(t, path)
}

// hostsFile is hosts.toml as containerd reads it, as far as samples use it.
type hostsFile struct {
	Server string `toml:"server"`
	Host   map[string]struct {
		Capabilities []string          `toml:"capabilities"`
		CA           string            `toml:"ca"`
		SkipVerify   bool              `toml:"skip_verify"`
		Header       map[string]string `toml:"header"`
	} `toml:"host"`
}

func (f hostsFile) check(t *testing.T, path string) (hosts []string) {
	t.Helper()
	for host, settings := range f.Host {
		hosts = append(hosts, host)
		for _, s := range []string{host, f.Server} {
			if u, err := url.Parse(s); err != nil || u.Host == "" {
				t.Errorf("%s: %q is no URL: %v", path, s, err)
			}
		}
		// Not "push": a cache takes none.
		if strings.Join(settings.Capabilities, " ") != "pull resolve" {
			t.Errorf("%s: capabilities %v", path, settings.Capabilities)
		}
	}
	return hosts
}
