package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestPrometheus has Debian's Prometheus scrape a module under load, by the configuration
// and with the rules of deploy/prometheus, and asks it for each expression of the rules and
// of the dashboard of deploy/grafana: all of them have data.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	up := origin(t, lab.OriginOptions{})
	images := []lab.Image{}
	for i := range 6 {
		images = append(images, noise(t, fmt.Sprintf("prometheus/image%d", i), 12*mib))
	}
	seeded := noise(t, "prometheus/seeded", mib)
	up.Add(append(images, seeded)...)
	up.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/denied/") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	away := origin(t, lab.OriginOptions{})
	takeDown(t, away)

	dir := tempDir(t)
	seedFile := filepath.Join(dir, "seed.yml")
	write(t, seedFile, fmt.Sprintf("version: 1\nschedule: \"* * * * *\"\nimages: [\"%s/%s\", \"%[1]s/prometheus/none:1\"]\n", hostOf(up), seeded.Repo+":"+seeded.Tag))
	// A run was missed while nothing ran, so that there is one at once.
	write(t, filepath.Join(dir, "data", "registry-module.seed.json"), fmt.Sprintf(`{"version": 1, "file": %q, "last": %q}`, seedFile, time.Now().Add(-time.Hour).Format(time.RFC3339)))
	m := must(lab.StartModule(t.Context(), bin.module, dir, merge(up.Env(), lab.Env{
		"REGISTRY_PROXY_REMOTEURL_2": away.URL(), "REGISTRY_PROXY_ALIAS_2": "away",
		"REGISTRY_CACHE_MAXSIZE": "64MiB", "REGISTRY_CACHE_MINFREE": "0%", "REGISTRY_CACHE_SCRUBINTERVAL": "1s", "REGISTRY_CACHE_SCRUBRATE": "0",
		"REGISTRY_SEED_FILE": seedFile,
	})))(t)
	end(t, m)

	config := filepath.Join(dir, "prometheus.yml")
	text := string(must(os.ReadFile("../deploy/prometheus/prometheus.yml"))(t))
	for sample, ours := range map[string]string{"127.0.0.1:5001": m.Admin, ": 30s": ": 1s"} {
		if !strings.Contains(text, sample) {
			t.Fatalf("the sample has no %s", sample)
		}
		text = strings.ReplaceAll(text, sample, ours)
	}
	write(t, config, text)
	write(t, filepath.Join(dir, "registry-module.rules.yml"), string(must(os.ReadFile("../deploy/prometheus/registry-module.rules.yml"))(t)))
	p := must(lab.StartPrometheus(t.Context(), filepath.Join(dir, "prometheus"), config))(t)
	end(t, p)
	eventually(t, "the module is scraped", func() bool {
		n, _, err := p.Query(t.Context(), "registry_module_build_info")
		return err == nil && n == 1
	})

	// Load: what is stored, what is not, what has to go for it, what nobody has, and what
	// cannot be had.
	work := func() {
		for _, img := range images {
			if err := pull(t.Context(), m, img); err != nil {
				t.Error(err)
			}
			get(t, manifestURL(m, img.Repo, img.Tag))
			get(t, manifestURL(m, img.Repo, "none"))
		}
		get(t, manifestURL(m, "prometheus/denied", "1"))
		get(t, manifestURL(m, "away/image", "1"))
	}
	expressions := append(ruleExpressions(t, p), dashboardExpressions(t)...)
	if len(expressions) < 45 {
		t.Fatalf("there are only %d expressions", len(expressions))
	}
	missing := expressions
	t.Cleanup(func() {
		if len(missing) > 0 {
			t.Logf("%d of %d expressions have no data:\n%s", len(missing), len(expressions), strings.Join(missing, "\n"))
		}
	})
	within(t, 3*time.Minute, "each expression has data", func() bool {
		work()
		var still []string
		for _, e := range missing {
			if n, value, err := p.Query(t.Context(), e); err != nil {
				t.Fatal(err)
			} else if n == 0 || value == "NaN" {
				still = append(still, e)
			}
		}
		missing = still
		return len(missing) == 0
	})
	t.Logf("%d expressions have data", len(expressions))
	for _, r := range must(p.Rules(t.Context()))(t) {
		if r.Health != "ok" {
			t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
		}
	}
}

// TestAlerts has promtool try the rules with series of metrics, of a site that is well and
// of sites that are not.
func TestAlerts(t *testing.T) {
	test := must(filepath.Abs("../deploy/prometheus/registry-module.rules.test.yml"))(t)
	if err := lab.CheckRules(t.Context(), test); err != nil {
		t.Error(err)
	}
}

// threshold is the end of an alert, of which what stands before is to have data.
var threshold = regexp.MustCompile(` (?:==|>) [0-9.]+$`)

// ruleExpressions are those of the rules, and of alerts what they compare with a number.
func ruleExpressions(t *testing.T, p *lab.Prometheus) (all []string) {
	t.Helper()
	rules := must(p.Rules(t.Context()))(t)
	if len(rules) == 0 {
		t.Fatal("there are no rules")
	}
	for _, r := range rules {
		if r.Type == "alerting" && !threshold.MatchString(r.Query) {
			t.Errorf("%s has no threshold at its end: %s", r.Name, r.Query)
		}
		all = append(all, threshold.ReplaceAllString(r.Query, ""))
	}
	return all
}

// dashboardExpressions are those of the dashboard, with its variables filled in.
func dashboardExpressions(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(must(os.ReadFile("../deploy/grafana/registry-module.json"))(t), &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "30s", "$__range", "1m", "$instance", ".*")
	for _, panel := range dashboard.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("the panel %s has no expression", panel.Title)
		}
		for _, target := range panel.Targets {
			all = append(all, variables.Replace(target.Expr))
		}
	}
	return all
}

// write writes a file, and makes its directory.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
