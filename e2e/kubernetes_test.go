package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry-module/e2e/lab"
)

// TestKubernetesTypes reads the manifests of deploy/kubernetes with the types of the API,
// and some that are wrong. How their parts fit each other is tested in deploy.
func TestKubernetesTypes(t *testing.T) {
	check := must(lab.KubeTypes(t.Context()))(t)
	text := string(must(os.ReadFile("../deploy/kubernetes/registry-module.yml"))(t))
	for name, c := range map[string]struct {
		old, replacement string
		want             string // in what is said; empty where nothing is wrong
	}{
		"as it is":            {},
		"unknown key":         {"enableServiceLinks", "enableServiceLink", `unknown field "spec.template.spec.enableServiceLink"`},
		"key of another":      {"  replicas: 1", "  replicas: 1\n  strategy: {type: Recreate}", `unknown field "spec.strategy"`},
		"key that is twice":   {"  replicas: 1", "  replicas: 1\n  replicas: 2", `key "replicas" already set`},
		"text for a number":   {"replicas: 1", "replicas: one", "cannot unmarshal string"},
		"no quantity":         {"memory: 512Mi", "memory: 512Mo", "quantities must match"},
		"unknown version":     {"apiVersion: apps/v1", "apiVersion: apps/v1beta1", "no kind"},
		"more than is needed": {"drop: [ALL]", "add: [NET_ADMIN]", "unrestricted capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.old != "" && !strings.Contains(text, c.old) {
				t.Fatalf("there is no %q", c.old)
			}
			path := filepath.Join(t.TempDir(), "objects.yml")
			if err := os.WriteFile(path, []byte(strings.Replace(text, c.old, c.replacement, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			o := must(lab.Command{Path: check, Args: []string{path}, Dir: t.TempDir()}.Do(t.Context()))(t)
			if (o.Status == 0) != (c.want == "") || !strings.Contains(o.Stderr, c.want) {
				t.Errorf("%v, want %q", o, c.want)
			}
			if c.want == "" && o.Stdout != "ConfigMap registry-module\nService registry-module-pods\nService registry-module\nStatefulSet registry-module\nNetworkPolicy registry-module\n" {
				t.Errorf("read %s", o.Stdout)
			}
		})
	}
}
